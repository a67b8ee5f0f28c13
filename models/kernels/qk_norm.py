"""Root-mean-square norm of queries and keys, in place in the joint projection.

PyTorch's kernel takes one block of threads for every row of D numbers; with D = 72 nine tenths of them idle. Here one
program takes many rows, and nothing is copied first.

Shape legend: M tokens, N heads, D head size, C = N * D.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(
    qkv, q_weight, k_weight, rows, eps,
    N: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rows are the heads of queries, then of keys, of one token after the other: adjacent in memory."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token, head = row // (2 * N), row % (2 * N)
    channel = tl.arange(0, WIDE)
    inside = (row < rows)[:, None] & (channel < D)[None, :]
    at = qkv + token.to(tl.int64)[:, None] * (3 * N * D) + head[:, None] * D + channel[None, :]
    stored = tl.load(at, mask=inside, other=0.0)
    x = stored.to(tl.float32)
    of_queries = tl.load(q_weight + channel, mask=channel < D, other=0.0)
    of_keys = tl.load(k_weight + channel, mask=channel < D, other=0.0)
    weight = tl.where((head < N)[:, None], of_queries[None, :], of_keys[None, :])
    x *= tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None] * weight
    tl.store(at, x.to(stored.dtype), mask=inside)


def qk_norm_(
    qkv: Tensor, q_weight: Tensor, k_weight: Tensor, *, heads: int, eps: float = 1e-6, rows: int = 32
) -> Tensor:
    """Norm the first two thirds of qkv [..., 3C], contiguous, head by head; returns it.

    Args:
        qkv: The joint projection; changed.
        q_weight: Weight for queries [D], float32.
        k_weight: Weight for keys [D], float32.
        heads: N.
        eps: Of the norm.
        rows: Rows of a program.
    """
    size = qkv.shape[-1] // 3 // heads
    count = qkv.numel() // qkv.shape[-1] * 2 * heads
    _norm[(triton.cdiv(count, rows),)](
        qkv, q_weight, k_weight, count, eps,
        N=heads, D=size, WIDE=triton.next_power_of_2(size), ROWS=rows, num_warps=4,
    )  # fmt: skip
    return qkv
