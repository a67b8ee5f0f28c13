"""Settings in, clips and sidecars out: the whole of ``videoaccel generate``, whoever calls it.

``resolve.py`` decides and checks all that needs no model, ``parts.py`` loads, ``generate.py`` makes and writes,
``sidecar.py`` says how, and makes it again. Uses ``generation`` and everything below.
"""
