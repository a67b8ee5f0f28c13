"""Acceleration methods, one file each; found by name, see :mod:`videoaccel.session.registry`."""
