"""All metrics of a folder of clips: the command ``evaluate``; metrics themselves are in ``eval``.

Comes in: clips, references, prompts. Goes out: ``results.json``, tables and a page. The official VBench package is
asked by ``official_vbench.py``. Uses ``media``, ``eval``, ``common``.
"""
