"""Speed and quality of methods side by side: the command ``compare``.

Comes in: a model, prompts, methods. Goes out: ``results.json``, a table, a picture, the worst clips. ``compare.py``
is the door, ``bench.py`` makes and times a clip, ``table.py`` sums up. Uses ``calibration``, ``jobs``,
``generation``, ``eval``.
"""
