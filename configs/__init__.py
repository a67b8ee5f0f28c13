"""Configurations found by name: ``models``, ``accel`` (methods with their fields), ``suites`` of metrics.

A YAML file here is offered by name to every command; :mod:`videoaccel.settings.config` reads and checks it.
"""
