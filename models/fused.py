"""Puts the kernels of :mod:`videoaccel.models.kernels` into networks, in place of chains of PyTorch's.

Shape legend: B rows, T frames, S places, C channels.
"""

import os
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from typing_extensions import Self

from videoaccel.models.forms import plain_form
from videoaccel.models.fp8 import Fp8Linear, Rows, in_eight_bits
from videoaccel.models.kernels.columns import add_columns, choose_columns, score_columns
from videoaccel.models.kernels.group_norm import group_norm
from videoaccel.models.kernels.modulate import gated_add, modulate
from videoaccel.models.kernels.qk_norm import qk_norm_
from videoaccel.models.kernels.quantize import quantize_modulated
from videoaccel.models.kernels.temporal_attention import MAX_FRAMES, temporal_attention
from videoaccel.models.layers import NORM_EPS, RMSNorm
from videoaccel.models.seam import Attend, Run, attention
from videoaccel.models.stdit_blocks import Conditioning, CrossAttention, FeedForward, SelfAttention
from videoaccel.models.temporal_vae import ResBlock, TemporalDecoder, TemporalEncoder

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on any device."""


def _runs(x: Tensor | Rows) -> bool:
    """Whether a kernel can take a tensor, or has made its rows; none has a backward pass."""
    if isinstance(x, Rows):
        return True
    return (x.is_cuda or (INTERPRETED and x.device.type == "cpu")) and not torch.is_grad_enabled()


class _Columned:
    """Of a module: choosing columns, and adding what is computed of some and served of the others, a kernel each."""

    gate: ClassVar[int | None] = None
    """Row of the table; None where there is no gate."""

    def column_kernels(self, x: Tensor) -> Self | None:
        """See :class:`videoaccel.session.columns.Kernels`; None where kernels cannot take the stream."""
        return self if _runs(x) else None

    def score_columns(self, x: Tensor, *, absolute: bool, before: Tensor | None = None) -> Tensor:
        """Mean of x [R, T, S, C], or of its change since ``before``, by column: float32 [R, S]."""
        before = None if before is None else before.contiguous()
        return score_columns(x.contiguous(), absolute=absolute, before=before)

    choose_columns = staticmethod(choose_columns)

    def add_columns(
        self, x: Tensor, part: Tensor, rest: Tensor, numbers: Tensor, cond: Conditioning, *, keep: bool
    ) -> Tensor:
        """X + gate * rest [R, T, S, C] with part [R, T, k, C] in the kept columns, with ``keep`` in rest, too."""
        assert rest.is_contiguous() or not keep, "what is kept would be kept in a copy"
        table = None if self.gate is None else cond.table
        parts = (x.contiguous(), part.contiguous(), rest.contiguous(), numbers, table)
        return add_columns(*parts, row=self.gate or 0, keep=keep)


class _Modulated:
    """Of a module whose first product may be in 8 bits: norm and modulation round its rows themselves."""

    shift: ClassVar[int]
    """Row of the table; the scale is in the next."""

    def first(self) -> nn.Module:
        """The module's first product."""
        raise NotImplementedError

    def pre_for_mix(self: Any, x: Tensor, cond: Conditioning) -> Tensor | Rows:
        """See :func:`videoaccel.models.seam.pre_for_mix`."""
        if cond.table is None or not _runs(x) or not isinstance(self.first(), Fp8Linear):
            return cast(Tensor, self.pre(x, cond))
        if x.is_cuda:
            rows, scales = quantize_modulated(x.contiguous(), cond.table, row=self.shift)
        else:
            rows, scales = in_eight_bits(self.pre(x, cond).flatten(0, -2), gelu=False)
        return Rows(rows, scales, x.shape, x.dtype)

    def compute(self: Any, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        return cast(Tensor, self.add(x, self.mix(self.pre_for_mix(x, cond), cond), cond))


class FusedSelfAttention(_Columned, _Modulated, SelfAttention):
    """Self-attention with fused edges; along time in one kernel between the two projections."""

    form_of = SelfAttention
    shift, gate = 0, 2

    def first(self) -> nn.Module:
        """See :class:`_Modulated`."""
        return self.qkv

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        if not _runs(x) or cond.table is None:
            return super().pre(x, cond)
        return modulate(x.contiguous(), cond.table, row=self.shift)

    def mix(
        self,
        h: Tensor | Rows,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """See the base class; for keys of other tokens that is what runs, too."""
        normed = isinstance(self.q_norm, RMSNorm) and isinstance(self.k_norm, RMSNorm)
        in_time = self.axis == "time"
        like = cast(Tensor, h)  # of 8-bit rows nothing but the first product sees more than the shape
        if not _runs(h) or kv is not None or not normed or (in_time and not self._fits(like, attend)):
            return super().mix(like, cond, kv=kv, width=width, attend=attend)
        weights = cast(Tensor, self.q_norm.weight), cast(Tensor, self.k_norm.weight)
        qkv = self.qkv(h).contiguous()
        if in_time:
            cos, sin = (table[:, ::2].float().contiguous() for table in cond.rotation)
            out = temporal_attention(qkv, *weights, cos, sin, heads=self.num_heads, eps=NORM_EPS)
            return self.proj(out)
        q, k, v = self._heads(qk_norm_(qkv, *weights, heads=self.num_heads, eps=NORM_EPS), 3)
        return self.proj(self._unfold(attend(q, k, v).flatten(2), like))

    def _fits(self, h: Tensor, attend: Attend) -> bool:
        return attend is attention and h.shape[1] <= MAX_FRAMES

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        if not _runs(x) or cond.table is None:
            return super().add(x, delta, cond)
        return gated_add(x.contiguous(), delta.contiguous(), cond.table, row=self.gate)


class FusedCrossAttention(_Columned, CrossAttention):
    """Cross-attention, of which kernels add columns; all of it has nothing to fuse."""

    form_of = CrossAttention


class FusedFeedForward(_Columned, _Modulated, FeedForward):
    """The MLP branch with fused edges, and GELU in the first product's epilogue."""

    form_of = FeedForward
    shift, gate = 3, 5

    def first(self) -> nn.Module:
        """See :class:`_Modulated`."""
        return self.fc1

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        if not _runs(x) or cond.table is None:
            return super().pre(x, cond)
        return modulate(x.contiguous(), cond.table, row=self.shift)

    def forward(self, x: Tensor | Rows) -> Tensor:
        """[..., C] -> [..., C]."""
        if isinstance(self.fc2, Fp8Linear) and _runs(x):
            return self.fc2.of_gelu(self.fc1(x))
        assert isinstance(x, Tensor)
        if not _runs(x):
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1])
        inner = torch._addmm_activation(self.fc1.bias, flat, self.fc1.weight.t(), use_gelu=True)
        return self.fc2(inner).view(x.shape)

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """See the base class."""
        if not _runs(x) or cond.table is None:
            return super().add(x, delta, cond)
        return gated_add(x.contiguous(), delta.contiguous(), cond.table, row=self.gate)


class FusedGroupNorm(nn.GroupNorm):
    """Group norm that leaves channels last where they are."""

    form_of = nn.GroupNorm
    silu: ClassVar[bool] = False
    """Whether it is the SiLU behind it, too."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same."""
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        if x.ndim not in (4, 5) or not _runs(x) or not x.is_contiguous(memory_format=layout):
            out = super().forward(x)
            return F.silu(out) if self.silu else out
        return group_norm(x, self.weight, self.bias, groups=self.num_groups, eps=self.eps, silu=self.silu)


class FusedGroupNormSilu(FusedGroupNorm):
    """Group norm and the SiLU behind it, whose module is a :class:`Taken` then."""

    silu = True


class Taken(nn.SiLU):
    """A SiLU that the norm before it has taken already."""

    form_of = nn.SiLU

    def forward(self, x: Tensor) -> Tensor:
        """Nothing is left to do."""
        return x


NORMS_BEFORE_SILU: dict[type[nn.Module], tuple[tuple[str, ...], str]] = {
    ResBlock: (("norm1", "norm2"), "act"),
    TemporalEncoder: (("norm1",), "act"),
    TemporalDecoder: (("norm1",), "act"),
    ResnetBlock2D: (("norm1", "norm2"), "nonlinearity"),
    Encoder: (("conv_norm_out",), "conv_act"),
    Decoder: (("conv_norm_out",), "conv_act"),
}
"""Of VAEs' modules: norms, and the activation that follows each of them and nothing else."""


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    form.form_of: form for form in (FusedSelfAttention, FusedCrossAttention, FusedFeedForward, FusedGroupNorm)
}


def fuse(model: nn.Module) -> int:
    """Put kernels into a network's modules; returns how many have one now."""
    with_silu = _take_silus(model)
    found = [module for module in model.modules() if type(module) in FUSED]
    for module in found:
        module.__class__ = FUSED[type(module)]
    return len(found) + with_silu


def _take_silus(model: nn.Module) -> int:
    """Have norms do the SiLU behind them, too; returns how many do so now that did not."""
    count = 0
    for module in model.modules():
        names, act = NORMS_BEFORE_SILU.get(plain_form(module), ((), ""))
        if not names or getattr(module, "time_emb_proj", None) is not None:  # its activation is the time's, too
            continue
        norms, after = [getattr(module, name) for name in names], getattr(module, act)
        if type(after) is nn.SiLU and all(type(norm) is nn.GroupNorm for norm in norms):
            after.__class__ = Taken
            for norm in norms:
                norm.__class__ = FusedGroupNormSilu
            count += len(norms)
    return count


def channels_last(model: nn.Module) -> None:
    """Lay a convolutional network's weights out for tensor cores: channels last, in two and three dimensions."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            layout = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
            module.to(memory_format=layout)  # type: ignore[call-overload]
