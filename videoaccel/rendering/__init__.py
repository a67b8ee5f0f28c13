"""Rendering many clips overnight: job files, workers that share a folder, faults, and what they leave to look at.

A job is a line of a file. Its identity is a hash of what decides its pixels; the clip of that identity is made once, by
whichever worker takes the job first, and appears with its sidecar in one rename. Nothing is kept on a server: the
folder is all that workers share, and `O_EXCL` and rename are all that they ask of it.
"""
