"""From a prompt to text states: cleaning, tokens, the encoder, states kept on disk.

Comes in: prompts. Goes out: ``PromptStates``. Uses ``settings``, ``common``.
"""
