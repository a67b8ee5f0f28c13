"""The blocks of Latte: branches on the residual stream, what they are conditioned on, and the body that runs them.

The modules that hold parameters are named and nested as in diffusers, where a block owns the norms of its attention and
MLP. A branch (what the seam is handed) is a view that puts a norm and a module together.

Shape legend: B batch, T frames, S places in a frame, C hidden size, L text tokens, N heads, D = C / N. The stream x is
[B, T, S, C].
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.models.layers import layer_norm, neuron_importance, reorder_neurons
from videoaccel.models.seam import Attend, Axis, Branch, Kind, Run, Site, attention

AXES: tuple[Axis, Axis] = ("space", "time")
ACTIVATIONS: Mapping[str, str] = MappingProxyType({"gelu-approximate": "tanh", "gelu": "none"})
"""The configuration's name of an activation -> torch's name of its kind of GELU."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of a text, [B, L, N, D] each."""


class LatteContext(NamedTuple):
    """All that does not depend on latent or timestep: made once per generation by :meth:`Latte.prepare`.

    Attributes:
        keys_values: Text keys and values of every spatial block; empty if these do not read the text.
        text_mask: [B, 1, 1, L], True where a text token counts; None if all count.
        places: Position table [1, 1, S, C], float32.
        times: Position table [1, T, 1, C]; None for an image.
        temporal: Whether the temporal blocks run.
    """

    keys_values: tuple[KeysValues, ...]
    text_mask: Tensor | None
    places: Tensor
    times: Tensor | None
    temporal: bool

    def rows(self, index: Sequence[int] | Tensor) -> "LatteContext":
        """Return the context of some batch rows, in the order of ``index``."""
        rows = torch.as_tensor(index, device=self.places.device)
        return self._replace(
            keys_values=tuple((k[rows], v[rows]) for k, v in self.keys_values),
            text_mask=None if self.text_mask is None else self.text_mask[rows],
        )


@dataclass(frozen=True)
class Conditioning:
    """What the blocks are conditioned on in one forward pass. Nothing in it is indexed by place.

    Attributes:
        modulation: Time modulation [B, 1, 1, 6, C].
        time: Time embedding [B, 1, 1, C], for the final layer.
        table: The shift, scale and gate of the block at hand, [B, 1, 1, 6, C]; set by :meth:`Block.localise`.
        text: The text keys and values of the block at hand; likewise.
    """

    context: LatteContext
    modulation: Tensor
    time: Tensor
    table: Tensor | None = None
    text: KeysValues | None = None


class TimestepEmbedder(nn.Module):
    """Sinusoids, linear, SiLU, linear."""

    num_frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(self.num_frequencies, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, timestep: Tensor) -> Tensor:
        """[B] -> [B, C]; the sinusoids are computed in float32, then cast."""
        half = self.num_frequencies // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angles = timestep.float()[:, None] * exponents.exp()
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.linear_2(F.silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))


class TimeModulation(nn.Module):
    """One modulation of all blocks by the timestep (adaLN-single); every block adds a table of its own."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TimestepEmbedder(hidden_size)})
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """[B] -> modulation [B, 6, C] and time embedding [B, C]."""
        time = self.emb["timestep_embedder"](timestep)
        return self.linear(F.silu(time)).unflatten(-1, (6, -1)), time


class CaptionProjection(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, caption_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(caption_channels, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, text: Tensor) -> Tensor:
        """[B, L, caption_channels] -> [B, L, C]."""
        return self.linear_2(F.gelu(self.linear_1(text), approximate="tanh"))


class AttentionLayers(nn.Module):
    """The linear maps around an attention."""

    def __init__(self, hidden_size: int, num_heads: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(hidden_size, hidden_size, bias=bias) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(hidden_size, hidden_size)])

    def query(self, x: Tensor) -> Tensor:
        """[M, L, C] -> [M, L, N, D]."""
        return self.to_q(x).unflatten(-1, (self.num_heads, -1))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values: [M, L, C] -> two of [M, L, N, D]."""
        k, v = (layer(x).unflatten(-1, (self.num_heads, -1)) for layer in (self.to_k, self.to_v))
        return k, v

    def out(self, x: Tensor) -> Tensor:
        """[M, L, N, D] -> [M, L, C]."""
        return self.to_out[0](x.flatten(2))


class FeedForwardLayers(nn.Module):
    """The two linear maps of an MLP with four times the hidden size in between."""

    def __init__(self, hidden_size: int, *, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        inner = nn.ModuleDict({"proj": nn.Linear(hidden_size, 4 * hidden_size)})
        self.net = nn.ModuleDict({"0": inner, "2": nn.Linear(4 * hidden_size, hidden_size)})

    def forward(self, x: Tensor, width: float = 1.0) -> Tensor:
        """[..., C] -> [..., C] with the first ``width`` share of the hidden neurons."""
        first, second = (cast(nn.Linear, layer) for layer in (self.net["0"].proj, self.net["2"]))
        if width == 1.0:
            return second(F.gelu(first(x), approximate=self.approximate))
        hidden = math.ceil(width * first.out_features)
        inner = F.gelu(F.linear(x, first.weight[:hidden], first.bias[:hidden]), approximate=self.approximate)
        return F.linear(inner, second.weight[:, :hidden], second.bias)

    def ordered(self, order: Tensor) -> "FeedForwardLayers":
        """A copy whose hidden neurons stand in another order [4C]: the same function, other prefixes."""
        made = copy.copy(self)
        first, second = reorder_neurons(self.net["0"].proj, self.net["2"], order)  # type: ignore[arg-type]
        made._modules = {"net": nn.ModuleDict({"0": nn.ModuleDict({"proj": first}), "2": second})}
        return made

    def importance(self, x: Tensor) -> Tensor:
        """How much each hidden neuron matters over inputs [..., C], float32 [4C]."""
        inner = F.gelu(cast(nn.Linear, self.net["0"].proj)(x), approximate=self.approximate)
        return neuron_importance(inner, cast(nn.Linear, self.net["2"]))


class _Branch:
    """Common part of the branches: compute is add(mix(pre))."""

    def compute(self: Branch, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        return self.add(x, self.mix(self.pre(x, cond), cond), cond)


def _modulate(normed: Tensor, table: Tensor, row: int) -> Tensor:
    """Scale and shift a norm by table[row + 1] and table[row]; table [B, 1, 1, rows, C]."""
    return normed * (1 + table[..., row + 1, :]) + table[..., row, :]


@dataclass(frozen=True, eq=False)
class SelfAttention(_Branch):
    """Self-attention along one axis. Rows 0..2 of the table."""

    norm: nn.LayerNorm
    layers: AttentionLayers
    axis: Axis

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Modulated layer norm."""
        assert cond.table is not None
        return _modulate(self.norm(x), cond.table, 0)

    def mix(
        self, h: Tensor, cond: Conditioning, *, kv: Tensor | None = None, width: float = 1.0, attend: Attend = attention
    ) -> Tensor:
        """Attention of ``h`` over ``kv`` (default: over itself) along this branch's axis, [B, T, S, C]."""
        rows = self._fold(h)
        k, v = self.layers.keys_values(rows if kv is None else self._fold(kv))
        out = self.layers.out(attend(self.layers.query(rows), k, v)).unflatten(0, (len(h), -1))
        return out.transpose(1, 2) if self.axis == "time" else out

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Gated residual."""
        assert cond.table is not None
        return x + cond.table[..., 2, :] * delta

    def _fold(self, x: Tensor) -> Tensor:
        """[B, T, S, C] -> [B*T, S, C], or [B*S, T, C] along time."""
        return (x.transpose(1, 2) if self.axis == "time" else x).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class CrossAttention(_Branch):
    """Attention of every token to the text: no norm before it, no gate, no time dependence."""

    layers: AttentionLayers

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Identity."""
        return x

    def mix(
        self, h: Tensor, cond: Conditioning, *, kv: Tensor | None = None, width: float = 1.0, attend: Attend = attention
    ) -> Tensor:
        """Attention over the text in ``cond``, [B, T, S, C]."""
        assert cond.text is not None
        q = self.layers.query(h.flatten(1, 2))
        return self.layers.out(attend(q, *cond.text, cond.context.text_mask)).view(h.shape)

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Plain residual."""
        return x + delta


@dataclass(frozen=True, eq=False)
class FeedForward(_Branch):
    """The MLP. Rows 3..5 of the table."""

    norm: nn.LayerNorm
    layers: FeedForwardLayers

    def pre(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Modulated layer norm."""
        assert cond.table is not None
        return _modulate(self.norm(x), cond.table, 3)

    def mix(
        self, h: Tensor, cond: Conditioning, *, kv: Tensor | None = None, width: float = 1.0, attend: Attend = attention
    ) -> Tensor:
        """Two linear maps around a GELU, on the first ``width`` share of the hidden neurons."""
        return self.layers(h, width)

    def ordered(self, order: Tensor) -> "FeedForward":
        """A copy whose hidden neurons stand in another order [hidden]: the same function, other prefixes."""
        return FeedForward(self.norm, self.layers.ordered(order))

    def importance(self, h: Tensor) -> Tensor:
        """How much each hidden neuron matters over the outputs h [..., C] of ``pre``, float32 [hidden]."""
        return self.layers.importance(h)

    def add(self, x: Tensor, delta: Tensor, cond: Conditioning) -> Tensor:
        """Gated residual."""
        assert cond.table is not None
        return x + cond.table[..., 5, :] * delta


class Block(nn.Module):
    """Self-attention along one axis, cross-attention where it reads the text, MLP.

    The first temporal block adds the frames' positions to its input, so that whoever serves or skips a block, serves or
    skips them with it.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        axis: Axis,
        layer: int,
        reads_text: bool,
        bias: bool,
        approximate: str,
        affine: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.axis, self.layer = axis, layer
        self.site = Site("block", axis, layer)
        kinds: tuple[Kind, ...] = ("attn", "cross", "mlp") if reads_text else ("attn", "mlp")
        self.sites = tuple(Site(kind, axis, layer) for kind in kinds)
        self.norm1, self.norm2 = (nn.LayerNorm(hidden_size, eps, elementwise_affine=affine) for _ in range(2))
        self.attn1 = AttentionLayers(hidden_size, num_heads, bias=bias)
        self.attn2 = AttentionLayers(hidden_size, num_heads, bias=bias) if reads_text else None
        self.ff = FeedForwardLayers(hidden_size, approximate=approximate)
        self.scale_shift_table = nn.Parameter(torch.randn(6, hidden_size) / hidden_size**0.5)

    @property
    def attn(self) -> SelfAttention:
        """The self-attention branch."""
        return SelfAttention(self.norm1, self.attn1, self.axis)

    @property
    def cross_attn(self) -> CrossAttention | None:
        """The cross-attention branch; None in a block that does not read the text."""
        return None if self.attn2 is None else CrossAttention(self.attn2)

    @property
    def mlp(self) -> FeedForward:
        """The MLP branch."""
        return FeedForward(self.norm2, self.ff)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """All branches, in the order of ``sites``."""
        return tuple(branch for branch in (self.attn, self.cross_attn, self.mlp) if branch is not None)

    def localise(self, cond: Conditioning) -> Conditioning:
        """Return the conditioning as this block's branches expect it."""
        text = None if self.attn2 is None else cond.context.keys_values[self.layer]
        return replace(cond, table=self.scale_shift_table + cond.modulation, text=text)

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        local = self.localise(cond)
        if (self.axis, self.layer) == ("time", 0) and cond.context.times is not None:
            x = x + cond.context.times
        for site, branch in zip(self.sites, self.branches, strict=True):
            x = run(site, branch, x, local)
        return x


class Body(NamedTuple):
    """The blocks and the final layer: embedded tokens in, per-token outputs out."""

    blocks: Sequence[Block]
    table: Tensor
    proj_out: nn.Linear

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        for block in self.blocks:
            x = run(block.site, block, x, cond)
        x = _modulate(layer_norm(x), self.table + cond.time.unsqueeze(-2), 0)
        return self.proj_out(x)
