"""The command line: the only place that prints for people. A command is a file here, ``app.py`` lists them.

No file here imports torch at its top: ``videoaccel --help`` has to answer at once. Uses every room.
"""
