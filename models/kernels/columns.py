"""Some columns of a stream: how much each matters, which are kept, and their sum with what is served for the others.

A column is a place in all frames. PyTorch takes a dozen small kernels and a sort to choose columns, and writes what is
served anew to put the computed ones into it, before gate and residual read it again. Here the choice is one kernel,
and so is the sum, which writes no more of what is served than the new columns.

Shape legend: R rows, T frames, S places, C channels, G groups of columns, k kept columns; F is T where a modulation
differs from frame to frame, else 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoaccel.models.kernels.modulate import sizes, tile


@triton.jit
def _score(
    x, before, scores, frames, places, width,
    CHANGE: tl.constexpr, ABSOLUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One column: mean over its frames and channels."""
    column = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    first = column // places * frames * places + column % places
    total = tl.zeros((BLOCK,), tl.float32)
    for frame in range(0, frames):
        at = (first + frame * places) * width + channel
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if CHANGE:
            value -= tl.load(before + at, mask=inside, other=0.0).to(tl.float32)
        total += tl.abs(value) if ABSOLUTE else value
    tl.store(scores + column, tl.sum(total, 0) / (frames * width))


@triton.jit
def _choose(
    scores, flat, numbers, frames, places, real, length, quota, kept, ROWS: tl.constexpr, RIVALS: tl.constexpr
):  # fmt: skip
    """One group of one row: a column is kept if fewer than ``quota`` of its group come before it.

    Higher scores come first, of equal ones the first; what is not a number counts as the highest, as in a sort.
    """
    row, group = tl.program_id(0), tl.program_id(1)
    start = group * length
    stop = tl.minimum(start + length, real)
    so_far = group * quota
    for first in range(0, length, ROWS):
        column = start + first + tl.arange(0, ROWS)
        valid = column < stop
        own = tl.load(scores + row * places + column, mask=valid, other=0.0)
        own = tl.where(own != own, float("inf"), own)
        ahead = tl.zeros((ROWS,), tl.int32)
        for next_ in range(0, length, RIVALS):
            rival = start + next_ + tl.arange(0, RIVALS)
            theirs = tl.load(scores + row * places + rival, mask=rival < stop, other=0.0)
            theirs = tl.where(theirs != theirs, float("inf"), theirs)
            equal = (theirs[None, :] == own[:, None]) & (rival[None, :] < column[:, None])
            comes_first = (theirs[None, :] > own[:, None]) | equal
            ahead += tl.sum((comes_first & (rival < stop)[None, :]).to(tl.int32), 1)
        chosen = valid & (ahead < quota)
        number = so_far + tl.cumsum(chosen.to(tl.int32), 0) - 1
        inside = (column < start + length) & (column < places)
        tl.store(numbers + row * places + column, tl.where(chosen, number, -1), mask=inside)
        for frame in range(0, frames):
            stream = (row * frames + frame).to(tl.int64)
            tl.store(flat + stream * kept + number, stream * places + column, mask=chosen)
        so_far += tl.sum(chosen.to(tl.int32), 0)


@triton.jit
def _add(
    x, part, rest, numbers, table, out, frames, places, kept, width, row_stride, frame_stride, gate,
    GATED: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: x + gate * (part where its column is kept, else rest)."""
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    row, frame = token // (frames * places), token // places % frames
    number = tl.load(numbers + row * places + token % places) + tl.zeros((BLOCK,), tl.int32)
    new = inside & (number >= 0)
    at = token * width + channel
    stored = tl.load(x + at, mask=inside, other=0.0)
    computed = tl.load(part + ((row * frames + frame) * kept + number) * width + channel, mask=new, other=0.0)
    served = tl.load(rest + at, mask=inside & (number < 0), other=0.0)
    delta = tl.where(new, computed, served).to(tl.float32)
    if GATED:
        to = row * row_stride + frame * frame_stride + gate * width + channel
        delta *= tl.load(table + to, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (stored.to(tl.float32) + delta).to(stored.dtype), mask=inside)
    if KEEP:
        tl.store(rest + at, computed, mask=new)


def score_columns(x: Tensor, *, absolute: bool, before: Tensor | None = None) -> Tensor:
    """Mean of x [R, T, S, C], contiguous, or of its change since ``before``, by column: float32 [R, S].

    Args:
        x: A stream.
        absolute: Of absolute values.
        before: A stream like it.
    """
    rows, frames, places, width = x.shape
    scores = torch.empty(rows, places, device=x.device, dtype=torch.float32)
    _score[(rows * places,)](
        x, x if before is None else before, scores, frames, places, width,
        CHANGE=before is not None, ABSOLUTE=absolute, **tile(x, 4),
    )  # fmt: skip
    return scores


def choose_columns(
    scores: Tensor, *, frames: int, real: int, length: int, quota: int, kept: int
) -> tuple[Tensor, Tensor]:
    """Keep the best columns of every group.

    Args:
        scores: [R, S], float32.
        frames: T.
        real: Columns that may be kept; those behind are padding.
        length: Columns of a group; the last one may be shorter.
        quota: Columns that a group keeps, as far as it has them.
        kept: k, the columns that this makes.

    Returns:
        Indices of the kept tokens in a stream flattened over rows, frames and places, [R * T * k], in order; and the
        number of every column among the kept ones of its row, int32 [R, S], -1 where it is not kept.
    """
    rows, places = scores.shape
    flat = torch.empty(rows * frames * kept, device=scores.device, dtype=torch.int64)
    numbers = torch.empty(rows, places, device=scores.device, dtype=torch.int32)
    _choose[(rows, triton.cdiv(places, length))](
        scores.contiguous(), flat, numbers, frames, places, real, length, quota, kept,
        ROWS=128, RIVALS=32, num_warps=4,
    )  # fmt: skip
    return flat, numbers


def add_columns(
    x: Tensor,
    part: Tensor,
    rest: Tensor,
    numbers: Tensor,
    table: Tensor | None,
    *,
    row: int = 0,
    keep: bool,
    warps: int = 4,
) -> Tensor:
    """X + gate * rest [R, T, S, C] each and contiguous, with part in place of rest in the kept columns.

    Args:
        x: The stream.
        part: The kept columns, new: [R, T, k, C], contiguous.
        rest: What is served.
        numbers: Number of every column among the kept ones, as :func:`choose_columns` returns it.
        table: [R, F, 1, rows, C], its rows contiguous; None where there is no gate.
        row: That of the gate.
        keep: Write part into rest.
        warps: Of a program.
    """
    out = torch.empty_like(x)
    frames, places, width, *strides = sizes(x, x if table is None else table)
    _add[(x.numel() // width,)](
        x, part, rest, numbers, x if table is None else table, out,
        frames, places, part.shape[2], width, *strides, row,
        GATED=table is not None, KEEP=keep, **tile(x, warps),
    )  # fmt: skip
    return out
