"""Trains E-DiT's routers: the command ``train-router``.

Comes in: a model. Goes out: a file of routers. ``lesson.py`` is what one step teaches, ``training.py`` the loop; the
network is ``models/router.py``, the file ``planning/router_file.py``. Uses ``calibration`` (its prompts), ``jobs``,
``generation``, ``policies``.
"""
