"""The blocks of Latte, PixArt and DiT: branches on the residual stream, what conditions them, the body that runs them.

The modules that hold parameters (:mod:`videoaccel.models.basic_layers`) are nested as in diffusers'
``BasicTransformerBlock``, where a block owns the norms of its attention and MLP. A branch (what the seam is handed) is
a view that puts a norm and a module together.

Shape legend: B batch, T frames, S places in a frame, C hidden size, L text tokens, N heads, D = C / N. The stream x is
[B, T, S, C].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.models.basic_layers import AttentionLayers, FeedForwardLayers, KeysValues, NumberEmbedder
from videoaccel.models.layers import NORM_EPS, layer_norm
from videoaccel.models.rows import rows_at
from videoaccel.models.seam import Attend, Axis, Branch, Kind, Run, Site, attention


class BlockContext(NamedTuple):
    """All that does not depend on latent or timestep: made once per generation by a network's ``prepare``.

    Attributes:
        places: Position table [1, 1, S, C], float32.
        keys_values: Text keys and values of every spatial block; empty if these do not read a text.
        text_mask: [B, 1, 1, L], True where a text token counts; None if all count.
        told: What is added to time embeddings [B, C]: a size to that of all blocks, or a class to that of each.
        times: Position table [1, T, 1, C]; None for an image.
        temporal: Whether there are temporal blocks and they run.
    """

    places: Tensor
    keys_values: tuple[KeysValues, ...] = ()
    text_mask: Tensor | None = None
    told: tuple[Tensor, ...] = ()
    times: Tensor | None = None
    temporal: bool = False

    def rows(self, index: Sequence[int] | Tensor) -> "BlockContext":
        """Return the context of some batch rows, in the order of ``index``."""
        rows = rows_at(index) if isinstance(index, Sequence) else index
        if isinstance(rows, list):
            rows = torch.tensor(rows, device=self.places.device)
        return self._replace(
            keys_values=tuple((k[rows], v[rows]) for k, v in self.keys_values),
            text_mask=None if self.text_mask is None else self.text_mask[rows],
            told=tuple(told[rows] for told in self.told),
        )


@dataclass(frozen=True)
class Conditioning:
    """What the blocks are conditioned on in one forward pass. Nothing in it is indexed by place.

    Attributes:
        modulation: Shift, scale and gate from the timestep, [B, 1, 1, 6, C]: by layer, or one for all of adaLN-single.
        final: Shift and scale of the final layer, [B, 1, 1, 2, C].
        table: The shift, scale and gate of the block at hand, [B, 1, 1, 6, C]; set by :meth:`BasicBlock.localise`.
        text: The text keys and values of the block at hand; likewise.
    """

    context: BlockContext
    modulation: tuple[Tensor, ...]
    final: Tensor
    table: Tensor | None = None
    text: KeysValues | None = None


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


class BasicBlock(nn.Module):
    """What the blocks have in common: self-attention along one axis, cross-attention where there is a text, MLP.

    Args:
        axis: Which tokens the self-attention mixes.
        layer: Number among the blocks of its axis.
        attn1: The self-attention.
        attn2: The cross-attention; None in a block that reads no text.
        ff: The MLP.
    """

    def __init__(
        self,
        *,
        axis: Axis,
        layer: int,
        attn1: AttentionLayers,
        attn2: AttentionLayers | None = None,
        ff: FeedForwardLayers,
    ) -> None:
        super().__init__()
        self.axis, self.layer = axis, layer
        self.site = Site("block", axis, layer)
        kinds: tuple[Kind, ...] = ("attn", "mlp") if attn2 is None else ("attn", "cross", "mlp")
        self.sites = tuple(Site(kind, axis, layer) for kind in kinds)
        self.attn1, self.attn2, self.ff = attn1, attn2, ff

    @property
    def norms(self) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        """Of the self-attention and of the MLP."""
        raise NotImplementedError

    @property
    def attn(self) -> SelfAttention:
        """The self-attention branch."""
        return SelfAttention(self.norms[0], self.attn1, self.axis)

    @property
    def cross_attn(self) -> CrossAttention | None:
        """The cross-attention branch; None in a block that does not read the text."""
        return None if self.attn2 is None else CrossAttention(self.attn2)

    @property
    def mlp(self) -> FeedForward:
        """The MLP branch."""
        return FeedForward(self.norms[1], self.ff)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """All branches, in the order of ``sites``."""
        return tuple(branch for branch in (self.attn, self.cross_attn, self.mlp) if branch is not None)

    def table(self, cond: Conditioning) -> Tensor:
        """This block's shift, scale and gate of attention and MLP, [B, 1, 1, 6, C]."""
        raise NotImplementedError

    def localise(self, cond: Conditioning) -> Conditioning:
        """Return the conditioning as this block's branches expect it."""
        text = None if self.attn2 is None else cond.context.keys_values[self.layer]
        return replace(cond, table=self.table(cond), text=text)

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        local = self.localise(cond)
        for site, branch in zip(self.sites, self.branches, strict=True):
            x = run(site, branch, x, local)
        return x


class SingleBlock(BasicBlock):
    """A block of adaLN-single: its own table added to the modulation that all blocks share.

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
        super().__init__(
            axis=axis,
            layer=layer,
            attn1=AttentionLayers(hidden_size, num_heads, bias=bias),
            attn2=AttentionLayers(hidden_size, num_heads, bias=bias) if reads_text else None,
            ff=FeedForwardLayers(hidden_size, approximate=approximate),
        )
        self.norm1, self.norm2 = (nn.LayerNorm(hidden_size, eps, elementwise_affine=affine) for _ in range(2))
        self.scale_shift_table = nn.Parameter(torch.randn(6, hidden_size) / hidden_size**0.5)

    @property
    def norms(self) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        """See :class:`BasicBlock`."""
        return self.norm1, self.norm2

    def table(self, cond: Conditioning) -> Tensor:
        """See :class:`BasicBlock`."""
        return self.scale_shift_table + cond.modulation[0]

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        if (self.axis, self.layer) == ("time", 0) and cond.context.times is not None:
            x = x + cond.context.times
        return super().compute(x, cond, run)


class ZeroNorm(nn.Module):
    """The norm of adaLN-zero with what it makes its own block's modulation of: the timestep and a class."""

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        table = nn.Embedding(num_classes + 1, hidden_size)
        self.emb = nn.ModuleDict(
            {
                "timestep_embedder": NumberEmbedder(hidden_size, ends=True),
                "class_embedder": nn.ModuleDict({"embedding_table": table}),
            }
        )
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)
        self.norm = nn.LayerNorm(hidden_size, NORM_EPS, elementwise_affine=False)

    def classes(self, labels: Tensor) -> Tensor:
        """Embeds classes [B], the last of which stands for none: [B, C]."""
        return cast(nn.Embedding, self.emb["class_embedder"].embedding_table)(labels)

    def forward(self, timestep: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """[B] and embedded classes [B, C] -> modulation [B, 6, C] and the embedding [B, C] that it is made of."""
        embedded = self.emb["timestep_embedder"](timestep) + classes
        return self.linear(F.silu(embedded)).unflatten(-1, (6, -1)), embedded


class ZeroBlock(BasicBlock):
    """A block of adaLN-zero, without a text: its shifts, scales and gates come from a network of its own."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        layer: int,
        num_classes: int,
        bias: bool,
        approximate: str,
        affine: bool,
        eps: float,
    ) -> None:
        super().__init__(
            axis="space",
            layer=layer,
            attn1=AttentionLayers(hidden_size, num_heads, bias=bias),
            ff=FeedForwardLayers(hidden_size, approximate=approximate),
        )
        self.norm1 = ZeroNorm(hidden_size, num_classes)
        self.norm3 = nn.LayerNorm(hidden_size, eps, elementwise_affine=affine)

    @property
    def norms(self) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        """See :class:`BasicBlock`."""
        return self.norm1.norm, self.norm3

    def table(self, cond: Conditioning) -> Tensor:
        """See :class:`BasicBlock`."""
        return cond.modulation[self.layer]


class Body(NamedTuple):
    """The blocks and the final layer: embedded tokens in, per-token outputs out."""

    blocks: Sequence[BasicBlock]
    proj_out: nn.Linear

    def compute(self, x: Tensor, cond: Conditioning, run: Run) -> Tensor:
        """See :class:`videoaccel.models.seam.Work`."""
        for block in self.blocks:
            x = run(block.site, block, x, cond)
        return self.proj_out(_modulate(layer_norm(x), cond.final, 0))
