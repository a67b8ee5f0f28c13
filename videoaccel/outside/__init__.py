"""Jobs on pipelines of diffusers that are not ours: settings in; clips, pictures or sound with sidecars out.

``find.py`` says what a name or folder is, ``arguments.py`` what our settings are called there, ``order.py`` decides and
checks all that needs no weights, ``loading.py`` loads, ``generate.py`` makes (and hands our own models on to ``jobs``),
``outputs.py`` takes a result apart, ``sidecar.py`` says how it was made, ``selftest.py`` looks whether methods hold.
Uses ``jobs`` for names and sidecars, ``generation`` for ``accelerate``, and everything below.
"""
