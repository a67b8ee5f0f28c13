"""Attention kernels by name, through diffusers' dispatch, behind the seam's ``attend``.

The named kernel serves self-attention. Cross-attention uses it where all texts of a batch have one length; a mask goes
to PyTorch's own kernel, since flash and sage kernels refuse masks.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from videoaccel.models.seam import Attend, attention
from videoaccel.settings.early import check_backend_name

NATIVE = "native"
DISPATCHED: Mapping[str, str] = MappingProxyType(
    {
        "cudnn": "_native_cudnn",
        "efficient": "_native_efficient",
        "native-flash": "_native_flash",
        "xformers": "xformers",
        "flash": "flash",
        "sage": "sage",
        "flash-hub": "flash_hub",
        "flash3-hub": "_flash_3_hub",
        "sage-hub": "sage_hub",
    }
)
"""Our name of a kernel -> that of diffusers' dispatch."""

PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "xformers": ("xformers", "pip install xformers brings it"),
        "flash": ("flash_attn", "it has no wheels: pip install flash-attn compiles it, with nvcc"),
        "sage": ("sageattention", "2.1.1 or later, which is built from its source; what PyPI has is too old"),
        **dict.fromkeys(
            ("flash-hub", "flash3-hub", "sage-hub"),
            ("kernels", "pip install kernels; it downloads them from the Hugging Face hub"),
        ),
    }
)
"""The package that a kernel needs, and how it is had."""


@cache
def attention_kernel(name: str) -> Attend:
    """The kernel of this name; the same function whenever it is asked for.

    Raises:
        ValueError: Unknown, or it cannot run here; says why.
    """
    check_backend_name(name)
    if name == NATIVE:
        return attention
    if reason := why_not(name):
        raise ValueError(f"attention backend {name!r} cannot run here: {reason}; use {NATIVE!r}, which always works")
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    backend = AttentionBackendName(DISPATCHED[name])

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

    package, how = PACKAGES.get(name, ("torch", ""))
    if find_spec(package) is None:
        return f"the package {package.replace('_', '-')} is not installed ({how})"
    try:
        from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

        _check_attention_backend_requirements(AttentionBackendName(DISPATCHED[name]))
    except (ImportError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None
