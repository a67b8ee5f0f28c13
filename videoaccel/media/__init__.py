"""Pictures and clips in files: reading, fitting to a size, writing and encoding, contact sheets.

Comes in: a path, or frames [T, H, W, 3]. Goes out: the other of the two. How each format is encoded says
``encoders.py``, quality and names of files ``writer.py``; a new format is in both. Knows nothing of how frames are
made. Uses ``settings``, ``common``.
"""
