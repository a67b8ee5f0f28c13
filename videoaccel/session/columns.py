"""Which columns of tokens a partial computation keeps. A column is a place in all frames.

Columns fall into G fixed contiguous groups of equal length (S is padded up), and every group keeps the same number. So
the choice does not depend on how groups are spread over ranks, and a rank's share is always rectangular.

A module may bring kernels for what is done with columns (:class:`Kernels`); PyTorch's own do the same without.

Shape legend: R rows, T frames, S places, C channels, G groups, k kept columns.
"""

import math
from typing import Any, Literal, NamedTuple, Protocol, cast

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
        numbers: Number of every column among the kept ones of its row, int32 [R, S], -1 where it is not kept; there
            where a kernel chose.
    """

    flat: Tensor
    shape: tuple[int, int, int]
    quota: int = 0
    numbers: Tensor | None = None

    def places(self, total: int) -> Tensor:
        """The kept places of every row, of ``total``, [R, k]."""
        return self.flat.view(self.shape)[:, 0] % total

    def take(self, x: Tensor) -> Tensor:
        """[R, T, S, C] -> [R, T, k, C]."""
        return x.flatten(0, 2).index_select(0, self.flat).view(*self.shape, x.shape[-1])

    def put(self, x: Tensor, part: Tensor) -> Tensor:
        """Return x [R, T, S, C] with the kept columns replaced by part [R, T, k, C]."""
        return x.flatten(0, 2).index_copy(0, self.flat, part.flatten(0, 2)).view(x.shape)

    def put_(self, x: Tensor, part: Tensor) -> Tensor:
        """The same in x itself, which is contiguous."""
        x.view(-1, x.shape[-1]).index_copy_(0, self.flat, part.flatten(0, 2))
        return x


class Kernels(Protocol):
    """What a module with kernels of its own does with columns, see :mod:`videoaccel.models.fused`."""

    def score_columns(self, x: Tensor, *, absolute: bool, before: Tensor | None = None) -> Tensor:
        """Mean of x [R, T, S, C], or of its change since ``before``, by column: float32 [R, S]."""
        ...

    def choose_columns(
        self, scores: Tensor, *, frames: int, real: int, length: int, quota: int, kept: int
    ) -> tuple[Tensor, Tensor]:
        """``flat`` and ``numbers`` of the columns chosen by scores [R, S]; ``length`` is that of a group."""
        ...

    def add_columns(self, x: Tensor, part: Tensor, rest: Tensor, numbers: Tensor, cond: Any, *, keep: bool) -> Tensor:
        """``add(x, rest)`` with part [R, T, k, C] in place of the kept columns of rest; with ``keep`` in rest, too."""
        ...


def kernels_of(branch: Any, x: Tensor) -> Kernels | None:
    """What a module brings for columns of a stream x; None if PyTorch's operations have to do it."""
    find = getattr(branch, "column_kernels", None)
    return None if find is None else cast(Kernels | None, find(x))


def add(branch: Any, x: Tensor, part: Tensor, rest: Tensor, columns: Columns, cond: Any, *, keep: bool) -> Tensor:
    """The stream after a module of which some columns are computed and the others served.

    Args:
        branch: The module's.
        x: The stream before it, [R, T, S, C].
        part: Its result in the kept columns, [R, T, k, C].
        rest: What is served, [R, T, S, C].
        columns: Which they are.
        cond: The conditioning.
        keep: Write part into rest, which has to be contiguous then.
    """
    kernels = kernels_of(branch, x)
    if kernels is not None and columns.numbers is not None:
        return kernels.add_columns(x, part, rest, columns.numbers, cond, keep=keep)
    return cast(Tensor, branch.add(x, columns.put_(rest, part) if keep else columns.put(rest, part), cond))


def score(
    x: Tensor,
    select: Select,
    *,
    before: Tensor | None = None,
    generator: torch.Generator | None = None,
    start: int = 0,
    total: int | None = None,
    kernels: Kernels | None = None,
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
        kernels: To do it with.
    """
    if select == "random":
        drawn = torch.rand(x.shape[0], x.shape[2] if total is None else total, generator=generator)[:, start:]
        return F.pad(drawn[:, : x.shape[2]], (0, max(x.shape[2] - drawn.shape[1], 0))).to(x.device)
    if select == "change":
        if before is None:
            raise ValueError("scores by change need the stream of an earlier step")
        if kernels is not None:
            return kernels.score_columns(x, absolute=True, before=before)
        return (x - before).abs().mean((1, 3), dtype=torch.float32)
    if kernels is not None:
        return kernels.score_columns(x, absolute=select == "abs")
    return (x.abs() if select == "abs" else x).mean((1, 3), dtype=torch.float32)


def choose(
    scores: Tensor,
    keep: float,
    *,
    frames: int,
    groups: int,
    places: int | None = None,
    total: int | None = None,
    kernels: Kernels | None = None,
) -> Columns:
    """Keep the best columns of every group.

    Args:
        scores: [R, S].
        keep: Share of columns to keep, in (0, 1]; every group rounds up.
        frames: T.
        groups: G.
        places: Number of real columns; those behind are padding and never chosen.
        total: Real columns of the whole clip, where these are but some whole groups of them.
        kernels: To do it with; of equal scores they keep the first columns, PyTorch any.
    """
    rows, wide = scores.shape
    real = wide if places is None else min(places, wide)
    length = -(-(real if total is None else total) // groups)
    quota = min(max(1, math.ceil(keep * length)), length)
    groups = -(-real // length)  # groups that hold a real column
    # The last group may be short: it keeps what it can.
    shortest = real - (groups - 1) * length
    kept = (groups - 1) * quota + min(quota, shortest)
    if kernels is not None:
        flat, numbers = kernels.choose_columns(scores, frames=frames, real=real, length=length, quota=quota, kept=kept)
        return Columns(flat, (rows, frames, kept), quota, numbers)
    width = groups * length
    padded = F.pad(scores[:, :real], (0, width - real), value=-math.inf)
    best = padded.view(rows, groups, length).topk(quota, dim=-1).indices.sort(-1).values
    index = best + torch.arange(groups, device=scores.device)[:, None] * length
    index = index.flatten(1)
    index = index[:, :kept]  # where some of the short group's picks are padding, the same in all rows
    start = torch.arange(rows, device=scores.device)[:, None] * frames + torch.arange(frames, device=scores.device)
    flat = start[:, :, None] * wide + index[:, None]
    return Columns(flat.flatten(), (rows, frames, kept), quota)
