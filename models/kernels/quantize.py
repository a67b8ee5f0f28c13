"""Rows to 8-bit floats with a scale each, for matrix products in fp8; what makes the rows on the way, where it can.

That is a tanh-GELU, or norm and modulation: so the rows are never written in a wider type, nor read again.

Shape legend: M rows, K columns; B, T, S, C and F as in modulate.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoaccel.models.kernels.modulate import modulated, sizes, tile

LARGEST = torch.finfo(torch.float8_e4m3fn).max


@triton.jit
def _store(value, out, scales, row, width, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """One row in float32, zero beyond its columns."""
    column = tl.arange(0, BLOCK)
    scale = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / LARGEST
    tl.store(scales + row, scale)
    tl.store(out + row * width + column, (value / scale).to(out.dtype.element_ty), mask=column < width)


@triton.jit
def _quantize(x, out, scales, width, LARGEST: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(2 * inner)  # (1 + tanh(u)) / 2 is the logistic function of 2u
    _store(value, out, scales, row, width, LARGEST, BLOCK)


@triton.jit
def _modulate(
    x, table, out, scales, frames, places, width, row_stride, frame_stride, shift, eps,
    LARGEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token, with the bits of modulating it and then rounding what that stored."""
    token = tl.program_id(0).to(tl.int64)
    value = modulated(x, table, token, frames, places, width, row_stride, frame_stride, shift, eps, BLOCK)
    _store(value.to(tl.float32), out, scales, token, width, LARGEST, BLOCK)


def quantize(x: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits: x [M, K] contiguous -> values [M, K] in float8_e4m3fn and their scales [M, 1], float32.

    Args:
        x: The rows.
        gelu: Take the tanh-GELU of them first.
    """
    out, scales = _empty(x)
    warps = 4 if triton.next_power_of_2(x.shape[1]) < 4096 else 8
    _quantize[(len(x),)](x, out, scales, x.shape[1], LARGEST=LARGEST, GELU=gelu, **tile(x, warps))
    return out, scales


def quantize_modulated(
    x: Tensor, table: Tensor, *, row: int, eps: float = 1e-6, warps: int = 4
) -> tuple[Tensor, Tensor]:
    """LN(x) * (1 + scale) + shift in 8 bits: [B*T*S, C] and the scales of the tokens [B*T*S, 1], float32.

    Args:
        x: [B, T, S, C], contiguous.
        table: [B, F, 1, rows, C], its rows contiguous.
        row: That of the shift; the scale is in the next.
        eps: Of the norm.
        warps: Of a program.
    """
    out, scales = _empty(x.view(-1, x.shape[-1]))
    _modulate[(len(out),)](
        x, table, out, scales, *sizes(x, table), row, eps, LARGEST=LARGEST, **tile(x, warps)
    )  # fmt: skip
    return out, scales


def _empty(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows like x [M, K] go, and their scales."""
    out = torch.empty(x.shape, device=x.device, dtype=torch.float8_e4m3fn)
    return out, torch.empty(len(x), 1, device=x.device, dtype=torch.float32)
