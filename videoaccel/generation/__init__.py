"""One generation: a call becomes a request, a maker, the loop, decoded frames.

Comes in: a loaded model and a call. Goes out: frames, and sessions that know what was done. ``pipeline.py`` is the
door, ``request.py`` refuses what cannot be made, ``maker.py`` makes it, ``denoise.py`` is the loop;
``cache_memory.py`` fits a method into a limit. Names no concrete method. Uses ``adapters`` (for ``accelerate``),
``planning``, ``session``, ``parallel``, ``models`` and the ground.
"""
