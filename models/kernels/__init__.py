"""Triton kernels, one file each, for what PyTorch's own kernels do badly at the sizes of video transformers.

In: tensors on a CUDA device (or in Triton's interpreter). Out: what the modules they stand for return. They know of no
cache and no rank; :mod:`videoaccel.models.fused` puts them into a network. Import a kernel's file only where
``triton`` is there.
"""
