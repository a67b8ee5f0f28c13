"""Tensors of small files, in memory of their own."""

from typing import Any

from torch import Tensor


def tensors_of(file: Any) -> dict[str, Tensor]:
    """All tensors of an open safetensors file by name.

    What the library hands out is a view of the file: whoever copies another one over it (``cp`` writes in place) would
    change what a long run has read hours ago. Networks' weights are too large to be copied so.
    """
    return {str(name): file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
