"""One generation: a call becomes a request, a maker, the loop, decoded frames.

Comes in: a loaded model and a call. Goes out: frames, and sessions that know what was done. ``pipeline.py`` is the
door, ``maker.py`` makes a request, ``denoise.py`` is the loop. Names no concrete method. Uses ``adapters`` (for
``accelerate``), ``planning``, ``session``, ``parallel``, ``models`` and the ground.
"""
