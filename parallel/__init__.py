"""Who computes with whom: meshes, layouts, collectives, launching ranks and watching that they live.

``degrees.py`` chooses how many ranks share what, ``schemes.py`` in which way. Comes in: degrees and what the launcher
says. Goes out: a ``Mesh`` (``mesh.py``) and, for each loop, a ``Layout`` (``layout.py``) that wraps what mixes
tokens. Models and methods know nothing of it. Uses ``models`` (the seam).
"""
