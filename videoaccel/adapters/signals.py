"""Tensors that say how much a network changes from evaluation to evaluation, and by how much.

Shape legend: G groups of rows, P positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoaccel.adapters.agreement import Agree, alone
from videoaccel.policies._trunk import quotients

POSITIONS = 2**20
"""Of a group, at most so many values are kept: a mean over a million is off by a thousandth."""


class Sampler:
    """Keeps some values of large tensors, at the same positions every time."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, value: Tensor, rows: int) -> Tensor:
        """Copy values.

        Args:
            value: Any shape; its first dimension is split into as many groups as the latent has samples, if it can be.
            rows: Samples of the latent.

        Returns:
            Float32 [G, P].
        """
        flat = value.detach().reshape(rows if len(value) % rows == 0 else 1, -1)
        if flat.shape[1] > POSITIONS:
            key = flat.shape[1], flat.device
            if key not in self._places:
                drawn = torch.randint(flat.shape[1], (POSITIONS,), generator=torch.Generator().manual_seed(0))
                self._places = {key: drawn.to(flat.device)}
            flat = flat[:, self._places[key]]
        return flat.to(torch.float32, copy=True)


def change(now: Tensor, before: Tensor) -> Tensor:
    """Sums of ``|now - before|`` and of ``|before|`` of every group, [2, G]."""
    return torch.stack([(now - before).abs().sum(1), before.abs().sum(1)])


def relative(now: Tensor, before: Tensor) -> list[float]:
    """Relative change of every group; NaN stays NaN.

    >>> relative(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
    [1.0]
    """
    return quotients(change(now, before).flatten().tolist())


def agreed(number: float, near: Tensor, agree: Agree) -> float:
    """The first rank's copy of a number that a decision is made of: each rank sees, and has measured, its own signals.

    Args:
        number: The decision.
        near: A tensor on the device that ranks exchange tensors on.
        agree: How.
    """
    return number if agree is alone else float(agree(torch.tensor([number], device=near.device)))


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The stream among a block's arguments: the first positional one, or ``hidden_states``, or the first by name."""
    named = [kwargs["hidden_states"]] if "hidden_states" in kwargs else []
    return next((value for value in (*args, *named, *kwargs.values()) if _real(value)), None)


def added(args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> Tensor | None:
    """What a block adds to the largest of its streams; that itself if none of its arguments is of that shape.

    Blocks return streams in any order. Of several arguments with the shape, the nearest one is what it added to.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(output) if _real(leaf)]
    if not leaves:
        return None
    out: Tensor = max(leaves, key=lambda leaf: leaf.numel())
    given = [like for value in (*args, *kwargs.values()) if (like := _like(value, out)) is not None]
    if not given:
        return out
    found = [out.float() - value.float() for value in given]
    return found[0] if len(found) == 1 else min(found, key=lambda one: float(one.norm()))


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _like(value: Any, out: Tensor) -> Tensor | None:
    """An argument of the shape of an output; None if it is of another.

    Where ranks share the work, the output may be a part of it: the first rank's is the beginning, and its numbers are
    the ones that count.
    """
    if not _real(value) or value.ndim != out.ndim:
        return None
    apart = [d for d in range(out.ndim) if value.shape[d] != out.shape[d]]
    if not apart:
        return value
    d = apart[0]
    shorter = len(apart) == 1 and 0 < d < out.ndim - 1 and value.shape[d] > out.shape[d]
    return value.narrow(d, 0, out.shape[d]) if shorter else None
