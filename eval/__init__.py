"""Videos in, numbers out. Knows no model.

A metric is a file in ``metrics`` and a name in a suite (``configs/suites``), formulas that several share are in
``fidelity.py`` and ``perceptual.py``; the networks it looks through are in ``networks``, where their files belong says
``backbones.py``; ``world.py`` and ``oracle.py`` are the demo world. Clips are found and rows kept by the room
``evaluation``. Uses ``common``.
"""
