"""Rendering many clips overnight, the commands ``render``, ``status`` and ``cancel``: job files, workers, faults.

A job is a line of a file. Its identity is a hash of what decides its pixels; the clip of that identity is made once, by
whichever worker takes the job first, and appears with its sidecar in one rename. Nothing is kept on a server: the
folder is all that workers share, and `O_EXCL` and rename are all that they ask of it. ``run.py`` is the door,
``worker.py`` one worker, ``leases.py`` who holds which job,
``jobs_file.py`` reads job files. Uses ``preview``, ``jobs``, ``parallel`` and the ground.
"""
