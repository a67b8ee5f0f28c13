"""Group norm, with the SiLU behind it, of activations whose channels come last, as convolutions on tensor cores like.

PyTorch's own first makes a copy with the channels in front, and the convolution after it another one back.

Shape legend: N images or clips, M pixels of one, C channels, G groups, P programs to an image.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 256
"""Pixels that a program sums; a fixed number, so that sums do not depend on the device."""

TILE, SUM_TILE = 4096, 2048
"""Numbers that a program holds at once: when it applies factors, and when it sums, for which it keeps two of each."""


@triton.jit
def _sums(x, sums, pixels, channels, PIXELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum and sum of squares of each channel over PIXELS pixels: [N, P, 2, C]."""
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, PIXELS, ROWS):
        pixel = part * PIXELS + start + tl.arange(0, ROWS)
        inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = x + (image * pixels + pixel.to(tl.int64))[:, None] * channels + channel[None, :]
        value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        total += value
        squares += value * value
    at = sums + (image * tl.num_programs(1) + part) * 2 * channels + channel
    # Every thread sums its own numbers; threads wait for each other only here.
    tl.store(at, tl.sum(total, 0), mask=channel < channels)
    tl.store(at + channels, tl.sum(squares, 0), mask=channel < channels)


@triton.jit
def _apply(x, factor, offset, out, pixels, channels, SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """X * factor + offset, which differ by image and channel, [N, C] each; of SILU with its sigmoid as a factor."""
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    pixel = part * ROWS + tl.arange(0, ROWS)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = (image * pixels + pixel.to(tl.int64))[:, None] * channels + channel[None, :]
    by = tl.load(factor + image * channels + channel, mask=channel < channels, other=0.0)
    plus = tl.load(offset + image * channels + channel, mask=channel < channels, other=0.0)
    stored = tl.load(x + at, mask=inside, other=0.0)
    value = stored.to(tl.float32) * by[None, :] + plus[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(out + at, value.to(stored.dtype), mask=inside)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float, silu: bool = False) -> Tensor:
    """Group norm over a channels-last tensor.

    Args:
        x: [N, C, ...] whose channels are adjacent in memory (``channels_last`` or ``channels_last_3d``).
        weight: [C].
        bias: [C].
        groups: G.
        eps: Added to the variance.
        silu: Whether a SiLU follows: it is taken of numbers that were not rounded, and costs no byte.

    Returns:
        The same shape and memory format.
    """
    images, channels = x.shape[:2]
    pixels = x[0, 0].numel()
    block = triton.next_power_of_2(channels)
    rows = max(1, TILE // block)
    parts = triton.cdiv(pixels, PIXELS)
    sums = torch.empty(images, parts, 2, channels, device=x.device, dtype=torch.float32)
    _sums[(images, parts)](
        x, sums, pixels, channels, PIXELS=PIXELS, ROWS=max(1, SUM_TILE // block), BLOCK=block, num_warps=4
    )
    mean, square = sums.double().sum(1).unflatten(-1, (groups, -1)).sum(-1).div(pixels * channels // groups).unbind(1)
    scale = (square - mean.square()).clamp_min(0).add(eps).rsqrt()
    per_channel = (part.repeat_interleave(channels // groups, dim=1) for part in (mean, scale))
    mean, scale = per_channel
    factor = scale * weight
    offset = bias - mean * factor
    out = torch.empty_like(x)
    _apply[(images, triton.cdiv(pixels, rows))](
        x, factor.float(), offset.float(), out, pixels, channels, SILU=silu, ROWS=rows, BLOCK=block, num_warps=4
    )
    return out
