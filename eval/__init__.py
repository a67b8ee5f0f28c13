"""Videos in, numbers out. Knows no model.

A metric is a file in ``metrics``, the networks it looks through are in ``networks``, where their files belong says
``backbones.py``; ``world.py`` and ``oracle.py`` are the demo world. Clips are found and rows kept by the room
``evaluation``. Uses ``common``.
"""
