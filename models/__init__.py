"""The networks: single device, plain tensors. Nothing here names a rank or a cache.

Comes in: a latent, a timestep, a context. Goes out: a velocity, or decoded frames. Every piece of work goes through
the seam (``seam.py``), where methods and ranks are guests; ``protocols.py`` says what a generation asks of a network.
A new model is a file here, and a CUDA or Triton kernel goes into ``kernels/`` behind ``attend`` (by name in
``generation/attention_kernels.py``) or a branch's part.
"""
