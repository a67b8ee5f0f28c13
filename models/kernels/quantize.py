"""Rows to 8-bit floats with a scale each, for matrix products in fp8; a tanh-GELU on the way, where one is due.

Shape legend: M rows, K columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _quantize(x, out, scales, width, LARGEST: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(2 * inner)  # (1 + tanh(u)) / 2 is the logistic function of 2u
    scale = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / LARGEST
    tl.store(scales + row, scale)
    tl.store(out + row * width + column, (value / scale).to(out.dtype.element_ty), mask=column < width)


def quantize(x: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits: x [M, K] contiguous -> values [M, K] in float8_e4m3fn and their scales [M, 1], float32.

    Args:
        x: The rows.
        gelu: Take the tanh-GELU of them first.
    """
    rows, width = x.shape
    out = torch.empty(rows, width, device=x.device, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    _quantize[(rows,)](
        x,
        out,
        scales,
        width,
        LARGEST=torch.finfo(out.dtype).max,
        GELU=gelu,
        BLOCK=block,
        num_warps=4 if block < 4096 else 8,
    )
    return out, scales
