"""The layers of Latte, PixArt and DiT that hold parameters, named and nested as in diffusers, and their positions.

Shape legend: B batch, R rows, T frames, S places in a frame, C hidden size, L text tokens, N heads, D = C / N.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.models.layers import neuron_importance, reorder_neurons

ACTIVATIONS: Mapping[str, str] = MappingProxyType({"gelu-approximate": "tanh", "gelu": "none"})
"""The configuration's name of an activation -> torch's name of its kind of GELU."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of a text, [B, L, N, D] each."""


class NumberEmbedder(nn.Module):
    """Embeds a number, a timestep or a size: sinusoids, linear, SiLU, linear.

    Args:
        hidden_size: C.
        ends: The slowest wave has a frequency of 1/10000 itself, not the one after it.
    """

    num_frequencies = 256

    def __init__(self, hidden_size: int, *, ends: bool = False) -> None:
        super().__init__()
        self.steps = self.num_frequencies // 2 - ends
        self.linear_1 = nn.Linear(self.num_frequencies, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, number: Tensor) -> Tensor:
        """[B] -> [B, C]; the sinusoids are computed in float32, then cast."""
        half = self.num_frequencies // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=number.device) / self.steps
        angles = number.float()[:, None] * exponents.exp()
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.linear_2(F.silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))


class TimeModulation(nn.Module):
    """One modulation of all blocks by the timestep (adaLN-single); every block adds a table of its own.

    Args:
        hidden_size: C.
        sized: It is told the size of the picture, too, which its users add to the time embedding.
    """

    def __init__(self, hidden_size: int, *, sized: bool = False) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": NumberEmbedder(hidden_size)})
        if sized:
            names = ("resolution_embedder", "aspect_ratio_embedder")
            self.emb.update({name: NumberEmbedder(hidden_size // 3) for name in names})
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)

    def forward(self, timestep: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B], and what else is told [B, C] -> modulation [B, 6, C] and time embedding [B, C]."""
        time = self.emb["timestep_embedder"](timestep)
        time = time if told is None else time + told
        return self.linear(F.silu(time)).unflatten(-1, (6, -1)), time

    def size(self, height: Tensor, width: Tensor) -> Tensor:
        """Embeds height and width in pixels [R]: [R, C], a third for each and for their ratio."""
        sides = self.emb["resolution_embedder"](torch.stack((height, width), dim=1).flatten())
        ratio = self.emb["aspect_ratio_embedder"](height.float() / width.float())
        return torch.cat((sides.unflatten(0, (-1, 2)).flatten(1), ratio), dim=1)


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


class PatchEmbedding(nn.Module):
    """Cuts frames into patches, one token each."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, T, H', W'] -> [B, T, S, C] in the parameters' type."""
        frames = x.to(self.proj.weight.dtype).transpose(1, 2)
        return self.proj(frames.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])


def place_table(rows: int, columns: int, channels: int, *, base: int, scale: float) -> Tensor:
    """Positions of the places in a frame, [S, C], row-major, in float32; the column's half of the channels comes first.

    Args:
        rows: Places from top to bottom.
        columns: Places from left to right.
        channels: C.
        base: Places to a side of the pictures that the network was made for; others are stretched to these.
        scale: Positions are divided by it.
    """
    y, x = (torch.arange(count, dtype=torch.float32) / (count / base) / scale for count in (rows, columns))
    half = channels // 2
    table = sinusoids(x, half)[None].expand(rows, -1, -1), sinusoids(y, half)[:, None].expand(-1, columns, -1)
    return torch.cat(table, dim=-1).flatten(0, 1)


def sinusoids(positions: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of positions [M] at falling frequencies: [M, channels], computed in float64, in float32."""
    exponents = torch.arange(channels // 2, dtype=torch.float64, device=positions.device) / (channels / 2)
    angles = torch.outer(positions.double(), 10000.0**-exponents)
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


def unpatchify(tokens: Tensor, grid: Sequence[int], patch: int) -> Tensor:
    """Per-token outputs [B, T, S, patch * patch * Z] of rows x columns places -> [B, Z, T, H', W'] in float32."""
    out = tokens.unflatten(2, tuple(grid)).unflatten(-1, (patch, patch, -1))
    return out.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4).float()


def grid_of(latent_size: Sequence[int], patch: int) -> tuple[int, int, int]:
    """Frames, rows and columns of tokens for a latent of T, H', W'.

    Raises:
        ValueError: Rows or columns are no whole patches.
    """
    frames, height, width = latent_size
    if height % patch or width % patch:
        raise ValueError(f"a latent of {height} x {width} is not made of whole patches of {patch} x {patch}")
    return frames, height // patch, width // patch


def checked_width(num_heads: int, head_size: int) -> int:
    """Channels C of so many heads.

    Raises:
        ValueError: Positions in two dimensions cannot be put into as many.
    """
    size = num_heads * head_size
    if size < 4 or size % 4:
        raise ValueError(f"{num_heads} heads of {head_size} make {size} channels; 2D positions need a multiple of 4")
    return size


def check_kinds(norm_type: str, activation_fn: str, *, norm: str) -> None:
    """Refuse kinds of norm and activation that a network does not have.

    Raises:
        ValueError: Says which, and what would work.
    """
    if norm_type != norm:
        raise ValueError(f"norm_type must be {norm!r}, got {norm_type!r}")
    if activation_fn not in ACTIVATIONS:
        raise ValueError(f"activation_fn must be one of {', '.join(ACTIVATIONS)}, got {activation_fn!r}")


def check_steps(x: Tensor, timestep: Tensor, x_mask: Tensor | None, *, name: str) -> None:
    """Refuse inputs of a forward pass that no network of these takes.

    Raises:
        ValueError: There is not one timestep [B] for every row of x, or frames are to be kept.
    """
    if x_mask is not None:
        raise ValueError(f"{name} makes every frame of a clip; it cannot keep given ones (x_mask)")
    if timestep.shape != (len(x),):
        raise ValueError(f"timestep must have shape [{len(x)}], got {list(timestep.shape)}")


def one_frame(latent_size: Sequence[int], patch: int, *, name: str) -> tuple[int, int, int]:
    """As :func:`grid_of`, of a network that makes images: clips of one frame.

    Raises:
        ValueError: There are several frames, or rows or columns are no whole patches.
    """
    grid = grid_of(latent_size, patch)
    if grid[0] != 1:
        raise ValueError(f"{name} makes images, clips of 1 frame, not of {grid[0]}")
    return grid
