"""Layer norm, scale and shift of every token, and gate and residual: the edges of an adaLN module, one pass each.

Shape legend: B rows, T frames, S places, C channels; F is T where a modulation differs from frame to frame, else 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def modulated(  # noqa: ANN201
    x, table, token, frames, places, width, row_stride, frame_stride, shift, eps, BLOCK: tl.constexpr
):  # fmt: skip
    """LN(x) * (1 + scale) + shift of one token, in its type; scale's row of the table follows shift's."""
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    row = token // (frames * places) * row_stride + token // places % frames * frame_stride + shift * width + channel
    stored = tl.load(x + token * width + channel, mask=inside, other=0.0)
    value = stored.to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    add = tl.load(table + row, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(table + row + width, mask=inside, other=0.0).to(tl.float32)
    return (normed * (1 + scale) + add).to(stored.dtype)


@triton.jit
def _modulate(x, table, out, frames, places, width, row_stride, frame_stride, shift, eps, BLOCK: tl.constexpr):
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    value = modulated(x, table, token, frames, places, width, row_stride, frame_stride, shift, eps, BLOCK)
    tl.store(out + token * width + channel, value, mask=channel < width)


@triton.jit
def _gated_add(x, delta, table, out, frames, places, width, row_stride, frame_stride, gate, BLOCK: tl.constexpr):
    """One token: x + gate * delta."""
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    row = token // (frames * places) * row_stride + token // places % frames * frame_stride + gate * width + channel
    at = token * width + channel
    stored = tl.load(x + at, mask=inside, other=0.0)
    by = tl.load(table + row, mask=inside, other=0.0).to(tl.float32)
    sum_ = stored.to(tl.float32) + by * tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, sum_.to(stored.dtype), mask=inside)


def modulate(x: Tensor, table: Tensor, *, row: int, eps: float = 1e-6, warps: int = 4) -> Tensor:
    """LN(x) * (1 + scale) + shift, with shift and scale in two rows of a table.

    Args:
        x: [B, T, S, C], contiguous.
        table: [B, F, 1, rows, C], its rows contiguous.
        row: That of the shift; the scale is in the next.
        eps: Of the norm.
        warps: Of a program.
    """
    out = torch.empty_like(x)
    _modulate[(x.numel() // x.shape[-1],)](x, table, out, *sizes(x, table), row, eps, **tile(x, warps))
    return out


def gated_add(x: Tensor, delta: Tensor, table: Tensor, *, row: int, warps: int = 4) -> Tensor:
    """X + gate * delta, [B, T, S, C] each and contiguous, with the gate in a row of a table [B, F, 1, rows, C]."""
    out = torch.empty_like(x)
    _gated_add[(x.numel() // x.shape[-1],)](x, delta, table, out, *sizes(x, table), row, **tile(x, warps))
    return out


def sizes(x: Tensor, table: Tensor) -> tuple[int, ...]:
    """T, S, C and the table's strides from row to row and frame to frame."""
    _, frames, places, width = x.shape
    strides = (table.stride(axis) if table.shape[axis] > 1 else 0 for axis in (0, 1))
    return (frames, places, width, *strides)


def tile(x: Tensor, warps: int) -> dict[str, int]:
    """Constants of a program that takes a token: channels up to the next power of two."""
    return {"BLOCK": triton.next_power_of_2(x.shape[-1]), "num_warps": warps}
