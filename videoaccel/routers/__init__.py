"""Trains E-DiT's routers: the command ``train-router``.

Comes in: a model. Goes out: a file of routers. ``lesson.py`` is what one step teaches, ``training.py`` the loop. Uses
``calibration`` (its prompts), ``jobs``, ``generation``, ``policies``.
"""
