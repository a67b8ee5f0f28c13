"""Pictures and clips in files: reading, fitting to a size, writing and encoding, contact sheets.

Comes in: a path, or frames [T, H, W, 3]. Goes out: the other of the two. A new file format is an encoder here. Knows
nothing of how frames are made. Uses ``settings``, ``common``.
"""
