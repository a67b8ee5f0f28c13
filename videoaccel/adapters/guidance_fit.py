"""How the value that a scheduler is given is made of the outputs of the calls: guidance, without asking what it is.

In a dense run both are seen, so least squares finds the weights: the scale, which call is the conditional one, signs
of conventions, further terms of guidance. Nothing of the pipeline is read.

Shape legend: K terms (calls, or halves of batched ones), P positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.outputs import taken_apart

POSITIONS = 20_000
"""Values that are looked at, at most."""

CLOSE = 1e-3
"""Relative residual below which a fit holds (half precision rounds at about that)."""


@dataclass(frozen=True)
class Fit:
    """One evaluation's.

    Attributes:
        weights: Of each term, calls in order and the parts of a batched call in order of the batch.
        residual: Relative norm of what they leave.
        sample: The terms at the positions that were looked at, [K, P] float32.
        alike: Whether two terms say the same, so that their weights mean nothing by themselves.
    """

    weights: tuple[float, ...]
    residual: float
    sample: Tensor
    alike: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is that combination."""
        return self.residual < CLOSE


def terms_of(output: Any, value: Tensor) -> list[Tensor] | None:
    """The parts of a call's output that may be terms of a value [B, ...], as many positions each.

    A batch of several times B is split; of more channels than the value has the first are taken (a learned variance);
    lists of samples are put together. None where the shapes have nothing to do with each other.
    """
    parts = taken_apart(output)
    if parts is None:
        return None
    leaves = [leaf for leaf in parts.leaves if isinstance(leaf, Tensor)]
    if len(leaves) > 1 and all(leaf.shape == leaves[0].shape for leaf in leaves) and leaves[0].shape != value.shape:
        leaf = torch.stack([leaf.reshape(value.shape[1:]) for leaf in leaves]) if _like(leaves[0], value) else leaves[0]
    else:
        leaf = next((leaf for leaf in leaves if _folds(leaf, value)), leaves[0])
    if not _folds(leaf, value):
        return None
    batches = leaf.split(len(value))
    if leaf.ndim > 1 and leaf.shape[1:] != value.shape[1:] and leaf.shape[1] > value.shape[1]:
        batches = tuple(batch[:, : value.shape[1]] for batch in batches)
    return [batch for batch in batches if batch.numel() == value.numel()] or None


def fit(terms: Sequence[Tensor], value: Tensor) -> Fit:
    """Weights with which terms make up a value, by least squares over some positions, in float64.

    Args:
        terms: K of them, with as many values each as the value has.
        value: What the scheduler was given.
    """
    stride = max(1, value.numel() // POSITIONS)
    columns = torch.stack([term.detach().flatten()[::stride].double().cpu() for term in terms], 1)
    wanted = value.detach().flatten()[::stride].double().cpu()
    scale = columns.norm(dim=0).clamp(min=1e-30)
    u, sizes, v = torch.linalg.svd(columns / scale, full_matrices=False)
    kept = sizes > 1e-6 * sizes[0]
    inverse = torch.where(kept, 1 / sizes.clamp(min=1e-30), torch.zeros_like(sizes))
    weights = (v.T @ (inverse * (u.T @ wanted))) / scale
    residual = (columns @ weights - wanted).norm() / wanted.norm().clamp(min=1e-30)
    return Fit(tuple(weights.tolist()), float(residual), columns.T.float(), alike=not bool(kept.all()))


def steady(fits: Sequence[Fit | None]) -> bool:
    """Whether all evaluations have the same weights: a forecast of the value is then made of the terms' forecasts."""
    known = [one for one in fits if one is not None]
    if len(known) < len(fits) or not known or not all(one.holds for one in known):
        return False
    if len({len(one.weights) for one in known}) > 1:
        return False
    if any(one.alike for one in known):
        return True
    first = torch.tensor(known[0].weights)
    return all(torch.allclose(torch.tensor(one.weights), first, rtol=1e-2, atol=1e-2) for one in known)


def _like(leaf: Tensor, value: Tensor) -> bool:
    return leaf.numel() == value[0].numel()


def _folds(leaf: Tensor, value: Tensor) -> bool:
    """Whether a leaf is the value's size, or several such, perhaps with more channels."""
    if leaf.ndim != value.ndim or leaf.ndim < 2 or len(leaf) % len(value):
        return leaf.numel() == value.numel()
    return leaf.shape[2:] == value.shape[2:] and leaf.shape[1] >= value.shape[1]
