"""Settings in, clips and sidecars out: the whole of ``videoaccel generate``, whoever calls it.

``resolve.py`` decides and checks all that needs no model, ``samples.py`` names clips and their files, ``parts.py``
loads, ``generate.py`` makes and writes, ``sidecar.py`` says how it was made, and whether it can be made again. Job
*files* are read by ``rendering``. Uses ``generation`` and everything below.
"""
