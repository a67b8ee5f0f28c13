"""Acceleration methods, one file each; found by name, see :mod:`videoaccel.session.registry`.

What begins with an underscore is shared by several, or the second file of one. A new method is a new file, and
nothing else changes. Comes in: a job. Goes out: a session. Uses ``planning``, ``session``, ``sampling``; never
``parallel``: it is handed ``agree``.
"""
