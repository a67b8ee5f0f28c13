"""Rendering many clips overnight, the commands ``render``, ``status`` and ``cancel``: job files, workers, faults.

A job's identity is a hash of what decides its pixels; its clip is made once, by whichever worker takes it first, and
appears with its sidecar in one rename. The folder is all that workers share: no server, `O_EXCL` and rename alone.
``run.py`` is the door, ``worker.py`` one worker, ``leases.py`` who holds which job, ``jobs_file.py`` reads job files,
``inside.py`` is the one way into the folder. Uses ``preview``, ``outside``, ``jobs``, ``parallel`` and the ground.
"""
