"""Attention along time straight from the joint projection: q/k norm, rotation, softmax, values, in one pass.

A clip has tens of thousands of places and a dozen frames: attention kernels made for long sequences fill an eighth of
their tiles, and norm, rotation and the transposes around them read and write the stream a dozen times. Here one program
takes a few places of one head and reads q, k and v where the projection left them.

Shape legend: B rows, T frames, S places, C = N * D channels, N heads, D head size, P places of a program.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FRAMES = 64


@triton.jit
def _attend(
    qkv, q_weight, k_weight, cos_table, sin_table, out, frames, places, eps, scale,
    N: tl.constexpr, D: tl.constexpr, TIMES: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One head of P places. TIMES and WIDE are T and D up to the next power of two that a tile takes."""
    groups = tl.cdiv(places, P)
    group, head = tl.program_id(0), tl.program_id(1)
    batch, first = group // groups, (group % groups) * P
    row = tl.arange(0, P * TIMES)
    time, place = row % TIMES, row // TIMES
    channel, pair = tl.arange(0, WIDE), tl.arange(0, WIDE // 2)
    real = (time < frames) & (first + place < places)
    inside = real[:, None] & (channel < D)[None, :]
    token = (batch * frames + time).to(tl.int64) * places + first + place
    at = qkv + token[:, None] * (3 * N * D) + head * D + channel[None, :]
    q = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(at + N * D, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(at + 2 * N * D, mask=inside, other=0.0)
    q *= tl.rsqrt(tl.sum(q * q, 1) / D + eps)[:, None] * tl.load(q_weight + channel, mask=channel < D, other=0.0)[None]
    k *= tl.rsqrt(tl.sum(k * k, 1) / D + eps)[:, None] * tl.load(k_weight + channel, mask=channel < D, other=0.0)[None]
    angle = time[:, None] * (D // 2) + pair[None, :]
    turns = (time < frames)[:, None] & (pair < D // 2)[None, :]
    cos = tl.load(cos_table + angle, mask=turns, other=0.0)
    sin = tl.load(sin_table + angle, mask=turns, other=0.0)
    q_even, q_odd = tl.split(tl.reshape(q, (P * TIMES, WIDE // 2, 2)))
    k_even, k_odd = tl.split(tl.reshape(k, (P * TIMES, WIDE // 2, 2)))
    kind = v.dtype
    # A dot product does not mind the order of channels: the even ones, then the odd.
    scores = tl.dot(
        (q_even * cos - q_odd * sin).to(kind),
        tl.trans((k_even * cos - k_odd * sin).to(kind)),
        input_precision="ieee",
    )
    scores += tl.dot(
        (q_odd * cos + q_even * sin).to(kind),
        tl.trans((k_odd * cos + k_even * sin).to(kind)),
        input_precision="ieee",
    )
    sees = (place[:, None] == place[None, :]) & (time < frames)[None, :]
    scores = tl.where(sees, scores * scale, -1e30)
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights /= tl.sum(weights, 1)[:, None]
    result = tl.dot(weights.to(kind), v, input_precision="ieee").to(kind)
    tl.store(out + token[:, None] * (N * D) + head * D + channel[None, :], result, mask=inside)


def shape_of(frames: int, head_size: int) -> dict[str, int]:
    """Tile sizes for T frames and heads of D, as the kernel's constants."""
    return {
        "TIMES": max(16, triton.next_power_of_2(frames)),
        "WIDE": max(32, triton.next_power_of_2(head_size)),
    }


def temporal_attention(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    eps: float = 1e-6,
    places: int | None = None,
    warps: int | None = None,
) -> Tensor:
    """Attention of every place over its frames.

    Args:
        qkv: The joint projection [B, T, S, 3C], contiguous.
        q_weight: Weight of the root-mean-square norm of queries [D], float32.
        k_weight: Of keys, likewise.
        cos: Cosine of every pair's angle [T, D/2], float32, contiguous.
        sin: Sine, likewise.
        heads: N.
        eps: Of both norms.
        places: P; default what a tile of 32 rows holds.
        warps: Of a program.

    Returns:
        [B, T, S, C], before the output projection.

    Raises:
        ValueError: There are more than MAX_FRAMES frames, or the head size is odd.
    """
    batch, frames, total, joint = qkv.shape
    size = joint // 3 // heads
    if frames > MAX_FRAMES or size % 2:
        raise ValueError(f"this kernel takes up to {MAX_FRAMES} frames and even head sizes, not {frames} and {size}")
    shape = shape_of(frames, size)
    # Several places in a tile pay where tensor cores need rows; one place and two warps is what fits registers best.
    count = max(1, 16 // shape["TIMES"]) if places is None else places
    out = torch.empty(batch, frames, total, joint // 3, dtype=qkv.dtype, device=qkv.device)
    grid = (batch * triton.cdiv(total, count), heads)
    _attend[grid](
        qkv, q_weight, k_weight, cos, sin, out, frames, total, eps, size**-0.5,
        N=heads, D=size, **shape, P=count, num_warps=warps or (2 if count * shape["TIMES"] <= 16 else 4),
    )  # fmt: skip
    return out
