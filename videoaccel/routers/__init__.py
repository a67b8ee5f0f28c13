"""Trains E-DiT's routers: the command ``train-router``.

Comes in: a model. Goes out: a file of routers. ``lesson.py`` is what one step teaches, ``learning.py`` the states that
are learned from and an iteration, ``training.py`` the job; the network is ``models/router.py``, the file
``planning/router_file.py``. Uses ``calibration`` (its prompts), ``jobs``, ``generation``, ``policies``.
"""
