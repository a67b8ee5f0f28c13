"""The command line: the only place that prints for people.

No file here imports torch at its top: ``videoaccel --help`` has to answer at once.
"""
