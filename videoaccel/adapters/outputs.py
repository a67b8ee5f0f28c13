"""What denoisers return, whatever it is: taken apart into tensors, combined, and put together as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True)
class Output:
    """One output, taken apart.

    Attributes:
        leaves: Its parts, in order: tensors and None.
        form: How to put such parts together.
    """

    leaves: tuple[Any, ...]
    form: Any

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(leaf.nbytes for leaf in self.leaves if isinstance(leaf, Tensor))

    def whole(self) -> Any:
        """As the network returned it: a tuple, a list, a bare tensor, a class of diffusers."""
        return pytree.tree_unflatten(list(self.leaves), self.form)

    def kept(self) -> "Output":
        """With tensors of its own, which nobody else changes (a CUDA graph's next replay would)."""
        return Output(
            tuple(leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves), self.form
        )


def taken_apart(output: Any) -> Output | None:
    """An output's parts; None if there are others than real tensors and None: nobody knows how to forecast those."""
    leaves, form = pytree.tree_flatten(output)
    real = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    known = len(real) + sum(leaf is None for leaf in leaves)
    return Output(tuple(leaves), form) if real and known == len(leaves) else None


def combined(outputs: Sequence[Output], weights: Sequence[float], *, held_from: int | None = None) -> Output:
    """A linear combination, in float32 (float64 stays) and cast back to the outputs' types.

    Args:
        outputs: Alike ones, the newest first.
        weights: Of each.
        held_from: First channel (dimension 1) that is taken from the newest as it is: a learned variance.

    Raises:
        ValueError: The outputs are not alike.
    """
    newest = outputs[0]
    if any(other.form != newest.form for other in outputs[1:]):
        raise ValueError("outputs of different forms cannot be combined")
    leaves = []
    for parts in zip(*(output.leaves for output in outputs), strict=True):
        leaves.append(_combined(parts, weights, held_from))
    return Output(tuple(leaves), newest.form)


def finite(output: Output) -> bool:
    """Whether there is no NaN and no infinity."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in output.leaves if isinstance(leaf, Tensor))


def _combined(parts: Sequence[Any], weights: Sequence[float], held_from: int | None) -> Any:
    newest = parts[0]
    if not isinstance(newest, Tensor):
        return newest
    kind = torch.promote_types(newest.dtype, torch.float32)
    total = newest.to(kind) * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part.to(kind) * weight
    made = total.to(newest.dtype)
    if held_from is not None and newest.ndim > 1 and newest.shape[1] == 2 * held_from:
        made[:, held_from:] = newest[:, held_from:]
    return made
