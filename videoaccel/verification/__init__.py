"""Proves that several ranks make one rank's clip: the command ``verify``.

Comes in: settings and numbers of ranks. Goes out: how far clips and decisions are apart. Uses ``outside``,
``jobs``, ``generation``, ``parallel``.
"""
