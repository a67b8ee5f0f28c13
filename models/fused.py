"""Puts the kernels of :mod:`videoaccel.models.kernels` into STDiT3's modules, in place of chains of PyTorch's.

Shape legend: B rows, T frames, S places, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from videoaccel.models.kernels.modulate import gated_add, modulate
from videoaccel.models.kernels.qk_norm import qk_norm_
from videoaccel.models.kernels.temporal_attention import MAX_FRAMES, temporal_attention
from videoaccel.models.layers import NORM_EPS, RMSNorm
from videoaccel.models.seam import Attend, attention
from videoaccel.models.stdit_blocks import Conditioning, FeedForward, SelfAttention


class FusedSelfAttention(SelfAttention):
    """Self-attention with fused edges; along time in one kernel between the two projections."""

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        assert cond.table is not None
        return modulate(x.contiguous(), cond.table, row=0)

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """See the base class; other keys, other kernels and long clips take its way."""
        q_norm, k_norm = self.q_norm, self.k_norm
        if kv is not None or not (isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm)):
            return super().mix(h, cond, kv=kv, width=width, attend=attend)
        norms = {"heads": self.num_heads, "eps": NORM_EPS}
        if self.axis == "time" and attend is attention and h.shape[1] <= MAX_FRAMES:
            cos, sin = (table[:, ::2].float().contiguous() for table in cond.rotation)
            qkv = self.qkv(h)
            return self.proj(temporal_attention(qkv, q_norm.weight, k_norm.weight, cos, sin, **norms))
        if self.axis == "time":
            return super().mix(h, cond, attend=attend)
        q, k, v = self._heads(qk_norm_(self.qkv(h), q_norm.weight, k_norm.weight, **norms), 3)
        return self.proj(self._unfold(attend(q, k, v).flatten(2), h))

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        assert cond.table is not None
        return gated_add(x.contiguous(), delta.contiguous(), cond.table, row=2)


class FusedFeedForward(FeedForward):
    """The MLP branch with fused edges, and GELU in the first product's epilogue."""

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        assert cond.table is not None
        return modulate(x.contiguous(), cond.table, row=3)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        inner = torch._addmm_activation(self.fc1.bias, x.flatten(0, -2), self.fc1.weight.t(), use_gelu=True)
        return self.fc2(inner).view(x.shape)

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        assert cond.table is not None
        return gated_add(x.contiguous(), delta.contiguous(), cond.table, row=5)


FUSED: dict[type[nn.Module], type[nn.Module]] = {SelfAttention: FusedSelfAttention, FeedForward: FusedFeedForward}


def fuse(model: nn.Module) -> int:
    """Put kernels into a network's modules; returns how many have one now. Weights and names are as before."""
    found: list[Any] = [module for module in model.modules() if type(module) in FUSED]
    for module in found:
        module.__class__ = FUSED[type(module)]
    return len(found)
