"""From noise to data, step by step: schedules and their updates, noise of a sample, guidance, given frames.

Comes in: timesteps, a latent, a velocity. Goes out: the next latent. A new scheduler is a file here, named in
``kinds.py`` and ``settings/config.py``. Knows no network and no method. Uses ``models`` (shapes),
``settings``, ``common``.
"""
