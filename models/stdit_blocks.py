"""The blocks of STDiT3: branches on the residual stream, what they are conditioned on, and the body that runs them.

Shape legend: B batch, T latent frames, S places in a frame, C hidden size, L text tokens, N heads, D = C / N. F is T
where a conditioning differs from frame to frame, else 1. The stream x is [B, T, S, C].
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.models.layers import Mlp, RMSNorm, Rotary, layer_norm, neuron_importance, reorder_neurons
from videoaccel.models.rows import rows_at
from videoaccel.models.seam import Attend, Axis, Run, Site, attention

AXES: tuple[Axis, Axis] = ("space", "time")


class TextStates(NamedTuple):
    """One block's text keys and values, [B, L, N, D] each, and the key mask, [B, 1, 1, L] or None (all seen)."""

    k: Tensor
    v: Tensor
    mask: Tensor | None


class GenerationContext(NamedTuple):
    """All that does not depend on latent or timestep: made once per generation by :meth:`STDiT3.prepare`.

    Attributes:
        keys_values: Text keys and values of every block, spatial and temporal in turn; [B, L, N, D] each.
        text_mask: [B, 1, 1, L], True where a text token counts; None if all count.
        fps: Frame-rate embedding [B, C].
        given: Time embedding at t = 0 plus ``fps`` [B, C]: what given (clean) frames are conditioned on.
        given_modulation: ``given`` through ``t_block`` [B, 6C].
        places: Position table [1, 1, S, C].
        rotation: Cosine and sine [T, D] of the temporal rotation.
    """

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    text_mask: Tensor | None
    fps: Tensor
    given: Tensor
    given_modulation: Tensor
    places: Tensor
    rotation: tuple[Tensor, Tensor]

    def rows(self, index: Sequence[int] | Tensor) -> "GenerationContext":
        """Return the context of some batch rows, in the order of ``index``."""
        rows = rows_at(index) if isinstance(index, Sequence) else index
        if isinstance(rows, list):
            rows = torch.tensor(rows, device=self.fps.device)
        return self._replace(
            keys_values=tuple((k[rows], v[rows]) for k, v in self.keys_values),
            text_mask=None if self.text_mask is None else self.text_mask[rows],
            fps=self.fps[rows],
            given=self.given[rows],
            given_modulation=self.given_modulation[rows],
        )


@dataclass(frozen=True)
class Conditioning:
    """What the blocks are conditioned on in one forward pass. Nothing in it is indexed by place.

    Attributes:
        modulation: Time and frame-rate modulation [B, F, 1, 6, C].
        time: Time plus frame-rate embedding [B, 1, 1, C], for the final layer.
        given: The same at t = 0.
        x_mask: [B, T, 1, 1], True where a frame is being denoised; None if all are.
        rotation: Cosine and sine [T, D].
        text: The text of the block at hand; set by :meth:`Block.localise`.
        table: The shift, scale and gate of the block at hand, [B, F, 1, 6, C]; likewise.
    """

    context: GenerationContext
    modulation: Tensor
    time: Tensor
    given: Tensor
    x_mask: Tensor | None
    rotation: tuple[Tensor, Tensor]
    text: TextStates | None = None
    table: Tensor | None = None


class _Branch(nn.Module):
    """Common part of the module branches: compute is add(mix(pre))."""

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        raise NotImplementedError

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        raise NotImplementedError

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        raise NotImplementedError

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        return self.add(x, self.mix(self.pre(x, cond), cond), cond)


def _modulate(x: Tensor, table: Tensor, row: int) -> Tensor:
    """LN(x) * (1 + scale) + shift with shift, scale = table[row], table[row + 1]; table [B, F, 1, 6, C]."""
    return layer_norm(x) * (1 + table[..., row + 1, :]) + table[..., row, :]


class SelfAttention(_Branch):
    """Self-attention along one axis, with q/k norm and, along time, rotary positions. Rows 0..2 of the table."""

    def __init__(self, hidden_size: int, num_heads: int, *, axis: str, qk_norm: bool) -> None:
        super().__init__()
        self.axis, self.num_heads = axis, num_heads
        head_size = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm: nn.Module = RMSNorm(head_size) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(head_size) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Modulated layer norm."""
        assert cond.table is not None
        return _modulate(x, cond.table, 0)

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """Attention of ``h`` over ``kv`` (default: over itself) along this module's axis, [B, T, S, C]."""
        if kv is None:
            q, k, v = self._heads(self.qkv(h), 3)
        else:
            split = h.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            (q,) = self._heads(F.linear(h, weight[:split], bias[:split]), 1)
            k, v = self._heads(F.linear(kv, weight[split:], bias[split:]), 2)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.axis == "time":
            cos, sin = cond.rotation
            q, k = Rotary.rotate(q, cos, sin), Rotary.rotate(k, cos, sin)
        out = attend(q, k, v).flatten(2)
        return self.proj(self._unfold(out, h))

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Gated residual."""
        assert cond.table is not None
        return x + cond.table[..., 2, :] * delta

    def _heads(self, joined: Tensor, parts: int) -> Sequence[Tensor]:
        """[B, T, S, parts*C] -> parts tensors [B*T, S, N, D], or [B*S, T, N, D] along time."""
        if self.axis == "time":
            joined = joined.transpose(1, 2)
        return joined.flatten(0, 1).unflatten(-1, (parts, self.num_heads, -1)).unbind(2)

    def _unfold(self, out: Tensor, like: Tensor) -> Tensor:
        """The inverse: [B*T, S, C] or [B*S, T, C] -> [B, T, S, C]."""
        batch = like.shape[0]
        out = out.unflatten(0, (batch, -1))
        return out.transpose(1, 2) if self.axis == "time" else out


class CrossAttention(_Branch):
    """Attention of every token to the text: no norm before it, no gate, no time dependence."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_size, hidden_size)
        self.kv_linear = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Project text states [B, L, C] to keys and values [B, L, N, D]."""
        k, v = self.kv_linear(text).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return k, v

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Identity."""
        return x

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """Attention over the text in ``cond``, [B, T, S, C]."""
        assert cond.text is not None
        q = self.q_linear(h).flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        out = attend(q, cond.text.k, cond.text.v, cond.text.mask).flatten(2)
        return self.proj(out.view(h.shape))

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Plain residual."""
        return x + delta


class FeedForward(Mlp, _Branch):
    """The MLP branch. Rows 3..5 of the table."""

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Modulated layer norm."""
        assert cond.table is not None
        return _modulate(x, cond.table, 3)

    def mix(
        self,
        h: Tensor,
        cond: Conditioning,
        *,
        kv: Tensor | None = None,
        width: float = 1.0,
        attend: Attend = attention,
    ) -> Tensor:
        """Two linear maps around a tanh-GELU, on the first ``width`` share of the hidden neurons."""
        if width == 1.0:
            return self(h)
        hidden = math.ceil(width * self.fc1.out_features)
        inner = F.gelu(F.linear(h, self.fc1.weight[:hidden], self.fc1.bias[:hidden]), approximate="tanh")
        return F.linear(inner, self.fc2.weight[:, :hidden], self.fc2.bias)

    def ordered(self, order: Tensor) -> "FeedForward":
        """A copy whose hidden neurons stand in another order [hidden]: the same function, other prefixes."""
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made.fc1, made.fc2 = reorder_neurons(self.fc1, self.fc2, order)
        return made

    def importance(self, h: Tensor) -> Tensor:
        """How much each hidden neuron matters over the outputs h [..., C] of ``pre``, float32 [hidden]."""
        return neuron_importance(F.gelu(self.fc1(h), approximate="tanh"), self.fc2)

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Gated residual."""
        assert cond.table is not None
        return x + cond.table[..., 5, :] * delta


class Block(nn.Module):
    """Self-attention along one axis, cross-attention, MLP."""

    def __init__(
        self, hidden_size: int, num_heads: int, *, mlp_ratio: float, axis: Axis, layer: int, qk_norm: bool
    ) -> None:
        super().__init__()
        self.site = Site("block", axis, layer)
        self.sites = (Site("attn", axis, layer), Site("cross", axis, layer), Site("mlp", axis, layer))
        self.order = 2 * layer + (axis == "time")
        self.attn = SelfAttention(hidden_size, num_heads, axis=axis, qk_norm=qk_norm)
        self.cross_attn = CrossAttention(hidden_size, num_heads)
        self.mlp = FeedForward(hidden_size, int(hidden_size * mlp_ratio), hidden_size)
        self.scale_shift_table = nn.Parameter(torch.randn(6, hidden_size) / hidden_size**0.5)

    def localise(self, cond: Conditioning) -> Conditioning:
        """Return the conditioning as this block's branches expect it."""
        k, v = cond.context.keys_values[self.order]
        table = self.scale_shift_table + cond.modulation
        return replace(cond, table=table, text=TextStates(k, v, cond.context.text_mask))

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        local = self.localise(cond)
        attn, cross, mlp = self.sites
        x = run(attn, self.attn, x, local)
        x = run(cross, self.cross_attn, x, local)
        return run(mlp, self.mlp, x, local)


class FinalLayer(nn.Module):
    """Modulated norm and one linear map to the values of a patch."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, out_features)
        self.scale_shift_table = nn.Parameter(torch.randn(2, hidden_size) / hidden_size**0.5)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        """[B, T, S, C] -> [B, T, S, patch values].

        Given frames are modulated twice: the t = 0 shift and scale act on the norm of the *already modulated* stream.
        The original overwrites a variable there and was trained with it, so it belongs to the model.
        """
        x = _modulate(x, self.scale_shift_table + cond.time.unsqueeze(-2), 0)
        if cond.x_mask is not None:
            given = _modulate(x, self.scale_shift_table + cond.given.unsqueeze(-2), 0)
            x = torch.where(cond.x_mask, x, given)
        return self.linear(x)


class Body(NamedTuple):
    """The blocks and the final layer: embedded tokens in, per-token outputs out."""

    spatial_blocks: Sequence[Block]
    temporal_blocks: Sequence[Block]
    final_layer: FinalLayer

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = run(spatial.site, spatial, x, cond)
            x = run(temporal.site, temporal, x, cond)
        return self.final_layer(x, cond)
