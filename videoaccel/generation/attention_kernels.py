"""Attention kernels by name, through diffusers' dispatch, behind the seam's ``attend``.

The named kernel serves self-attention. Cross-attention uses it where all texts of a batch have one length; a mask goes
to PyTorch's own kernel, since flash and sage kernels refuse masks.
"""

import torch
from torch import Tensor

from videoaccel.models.seam import Attend, attention

NATIVE = "native"
BACKENDS = (NATIVE, "xformers", "flash", "sage")


def attention_kernel(name: str) -> Attend:
    """The kernel of this name.

    Raises:
        ValueError: Unknown, or it cannot run here; says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; there are {', '.join(BACKENDS)}")
    if name == NATIVE:
        return attention
    if reason := why_not(name):
        raise ValueError(f"attention backend {name!r} cannot run here: {reason}; use {NATIVE!r}, which always works")
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    backend = AttentionBackendName(name)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return attention(q, k, v, mask)
        return dispatch_attention_fn(q, k, v, backend=backend)

    return attend


def why_not(name: str) -> str | None:
    """Why a backend cannot run here; None if it can."""
    if name == NATIVE:
        return None
    if not torch.cuda.is_available():
        return "it needs a CUDA device"
    from importlib.util import find_spec

    modules = {"xformers": "xformers", "flash": "flash_attn", "sage": "sageattention"}
    if find_spec(modules[name]) is None:
        return f"the package {modules[name]} is not installed (pip install {modules[name].replace('_', '-')})"
    try:
        from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

        _check_attention_backend_requirements(AttentionBackendName(name))
    except (ImportError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None
