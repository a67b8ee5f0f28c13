"""Which columns of tokens a partial computation keeps. A column is a place in all frames.

Columns fall into G fixed contiguous groups of equal length (S is padded up), and every group keeps the same number. So
the choice does not depend on how groups are spread over ranks, and a rank's share is always rectangular.

Shape legend: R rows, T frames, S places, C channels, G groups, k kept columns.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Select = Literal["signed", "abs", "change", "random"]


class Columns(NamedTuple):
    """A choice of columns, per row.

    Attributes:
        flat: Indices of the kept tokens in a stream flattened over rows, frames and places, [R * T * k].
        shape: R, T, k.
        quota: Columns that a whole group keeps.
    """

    flat: Tensor
    shape: tuple[int, int, int]
    quota: int = 0

    def places(self, total: int) -> Tensor:
        """The kept places of every row, of ``total``, [R, k]."""
        return self.flat.view(self.shape)[:, 0] % total

    def take(self, x: Tensor) -> Tensor:
        """[R, T, S, C] -> [R, T, k, C]."""
        return x.flatten(0, 2).index_select(0, self.flat).view(*self.shape, x.shape[-1])

    def put(self, x: Tensor, part: Tensor) -> Tensor:
        """Return x [R, T, S, C] with the kept columns replaced by part [R, T, k, C]."""
        return x.flatten(0, 2).index_copy(0, self.flat, part.flatten(0, 2)).view(x.shape)


def score(
    x: Tensor,
    select: Select,
    *,
    before: Tensor | None = None,
    generator: torch.Generator | None = None,
    start: int = 0,
    total: int | None = None,
) -> Tensor:
    """How much each column matters, float32 [R, S].

    Args:
        x: Residual stream entering the site [R, T, S, C], before any norm (after one, every mean is zero).
        select: ``signed`` mean of the features (SODA), mean of their absolute values (``abs``), their ``change`` since
            ``before``, or ``random``.
        before: The stream at the last computed step.
        generator: For ``random``, on the CPU.
        start: For ``random``: number of the first place, where these are but some of a clip's.
        total: Places of the whole clip, likewise, so that a place has the same number on any rank.
    """
    if select == "random":
        drawn = torch.rand(x.shape[0], x.shape[2] if total is None else total, generator=generator)[:, start:]
        return F.pad(drawn[:, : x.shape[2]], (0, max(x.shape[2] - drawn.shape[1], 0))).to(x.device)
    if select == "change":
        if before is None:
            raise ValueError("scores by change need the stream of an earlier step")
        return (x - before).abs().mean((1, 3), dtype=torch.float32)
    return (x.abs() if select == "abs" else x).mean((1, 3), dtype=torch.float32)


def choose(
    scores: Tensor, keep: float, *, frames: int, groups: int, places: int | None = None, total: int | None = None
) -> Columns:
    """Keep the best columns of every group.

    Args:
        scores: [R, S].
        keep: Share of columns to keep, in (0, 1]; every group rounds up.
        frames: T.
        groups: G.
        places: Number of real columns; those behind are padding and never chosen.
        total: Real columns of the whole clip, where these are but some whole groups of them.
    """
    rows, wide = scores.shape
    real = wide if places is None else min(places, wide)
    length = -(-(real if total is None else total) // groups)
    quota = min(max(1, math.ceil(keep * length)), length)
    groups = -(-real // length)  # groups that hold a real column
    width = groups * length
    padded = F.pad(scores[:, :real], (0, width - real), value=-math.inf)
    # The last group may be short: it keeps what it can.
    shortest = real - (groups - 1) * length
    best = padded.view(rows, groups, length).topk(quota, dim=-1).indices.sort(-1).values
    index = best + torch.arange(groups, device=scores.device)[:, None] * length
    index = index.flatten(1)
    if quota > shortest:  # some of the short group's picks are padding: take them off, the same in all rows
        index = index[:, : (groups - 1) * quota + shortest]
    start = torch.arange(rows, device=scores.device)[:, None] * frames + torch.arange(frames, device=scores.device)
    flat = start[:, :, None] * wide + index[:, None]
    return Columns(flat.flatten(), (rows, frames, index.shape[1]), quota)
