"""Measures what methods plan with: the command ``calibrate``.

Comes in: a model and prompts. Goes out: a prior. ``probing.py`` runs the probes that methods bring, ``replay.py``
checks influences against replays, ``quality_curve.py`` measures what speed costs. Uses ``jobs``, ``generation``,
``policies``, ``eval``.
"""
