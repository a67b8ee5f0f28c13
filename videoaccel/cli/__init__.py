"""The command line: the only place that prints for people. ``app.py`` lists the commands.

A command is a file here; one that does more than print has a room of its own. No file here imports torch at its top:
``videoaccel --help`` has to answer at once. Uses every room.
"""
