"""Attention along time with several places side by side in one sequence: for CUDA without Triton.

Attention kernels work in tiles of a hundred rows, and a place has a dozen frames. A mask keeps places apart, so the
result is that of every place by itself, up to rounding; 0.29 ms in place of 1.06 on an H200 (docs/gpu.md).

Shape legend: B rows, T frames, S places, M = B * S, P places of a sequence, N heads, D head size.
"""

import torch
from torch import Tensor, nn

from videoaccel.models.layers import Rotary
from videoaccel.models.seam import Attend, attention
from videoaccel.models.stdit_blocks import Conditioning, SelfAttention

TILE = 96
"""Rows of a sequence that are worth having."""


def places_together(count: int, frames: int) -> int:
    """P: as many places as fill a tile and divide their number."""
    return next((p for p in range(max(1, TILE // frames), 1, -1) if count % p == 0), 1)


def side_by_side(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every place over its own frames; q, k, v [M, T, N, D] -> [M, T, N, D]."""
    count, frames = q.shape[:2]
    together = places_together(count, frames)
    if together == 1:
        return attention(q, k, v)
    place = torch.arange(together * frames, device=q.device) // frames
    own = (place[:, None] == place)[None, None]
    rows = (count // together, together * frames, *q.shape[2:])
    return attention(q.reshape(rows), k.reshape(rows), v.reshape(rows), own).reshape(q.shape)


class PackedSelfAttention(SelfAttention):
    """Self-attention that packs places along time."""

    form_of = SelfAttention

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """See the base class, whose way everything but plain attention along time takes."""
        if self.axis != "time" or kv is not None or attend is not attention:
            return super().mix(h, cond, kv=kv, width=width, attend=attend)
        q, k, v = self._heads(self.qkv(h), 3)
        q, k = (Rotary.rotate(part, *cond.rotation) for part in (self.q_norm(q), self.k_norm(k)))
        # The projection comes before the transpose back: of a transposed tensor it would make a copy first.
        return self._unfold(self.proj(side_by_side(q, k, v).flatten(2)), h)


def pack(model: nn.Module) -> int:
    """Put the form into a network's attention along time; returns how many have it now."""
    found = [module for module in model.modules() if type(module) is SelfAttention and module.axis == "time"]
    for module in found:
        module.__class__ = PackedSelfAttention
    return len(found)
