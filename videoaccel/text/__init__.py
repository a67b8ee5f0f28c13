"""From a prompt to text states: cleaning, tokens, the encoder, states kept on disk.

Comes in: prompts. Goes out: ``PromptStates``. ``prompts.py`` cleans, ``encoder.py`` is the T5, ``classes.py``
what reads classes in its place, ``cache.py`` the disk.
Uses ``settings``, ``common``.
"""
