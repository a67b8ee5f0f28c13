"""Small parts of the transformers: embedders, the MLP, rotary and place positions.

Shape legend: B batch, T frames, S = H*W places, C hidden size, L text tokens, N heads, D head size.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without parameters, eps 1e-6."""
    return F.layer_norm(x, (x.shape[-1],), eps=NORM_EPS)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis with a weight, eps 1e-6, statistics in float32."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=NORM_EPS)


class Mlp(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


@torch.no_grad()
def reorder_neurons(first: nn.Linear, second: nn.Linear, order: Tensor) -> tuple[nn.Linear, nn.Linear]:
    """Copies of an MLP's two maps with its hidden neurons in another order [hidden]: the same function."""
    pair = copy.deepcopy(first), copy.deepcopy(second)
    pair[0].weight.copy_(first.weight[order])
    pair[0].bias.copy_(first.bias[order])
    pair[1].weight.copy_(second.weight[:, order])
    return pair


def neuron_importance(inner: Tensor, second: nn.Linear) -> Tensor:
    """Mean square of what each hidden neuron adds to the output, over activations [..., hidden]; float32 [hidden]."""
    used = inner.float().square().flatten(0, -2).mean(0)
    return used * second.weight.float().square().sum(0)


class ScalarEmbedder(nn.Module):
    """Embeds one number per row (timestep or frames per second): sinusoids, linear, SiLU, linear."""

    def __init__(self, hidden_size: int, num_frequencies: int = 256) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.mlp = nn.Sequential(
            nn.Linear(num_frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, value: Tensor) -> Tensor:
        """[B] -> [B, C]. The value is rounded to the parameters' type, its sinusoids computed in float32, then cast."""
        dtype = self.mlp[0].weight.dtype
        assert isinstance(dtype, torch.dtype)
        half = self.num_frequencies // 2
        frequencies = torch.exp(
            torch.arange(half, dtype=torch.float32, device=value.device) * (-math.log(10000) / half)
        )
        angles = value.to(dtype).float()[:, None] * frequencies
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(waves.to(dtype))


class CaptionEmbedder(nn.Module):
    """Maps text states to the hidden size and holds the learned states of an empty prompt (``y_embedding``)."""

    y_embedding: Tensor

    def __init__(self, caption_channels: int, hidden_size: int, max_length: int) -> None:
        super().__init__()
        self.y_proj = Mlp(caption_channels, hidden_size, hidden_size)
        self.register_buffer("y_embedding", torch.randn(max_length, caption_channels) / caption_channels**0.5)

    def forward(self, y: Tensor) -> Tensor:
        """[B, 1, L, caption_channels] -> [B, 1, L, C]."""
        return self.y_proj(y)


class Rotary(nn.Module):
    """Rotary position embedding on adjacent channel pairs; its frequencies are saved with the model."""

    def __init__(self, head_size: int, base: float = 10000.0) -> None:
        super().__init__()
        exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
        self.freqs = nn.Parameter(base**-exponents, requires_grad=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [length, D] of position times frequency, each repeated for its pair, in the module's type."""
        positions = torch.arange(length, device=self.freqs.device, dtype=self.freqs.dtype)
        angles = (positions[:, None] * self.freqs).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()

    @staticmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x [M, T, N, D] by the angles of its frames: (a, b) -> (a cos - b sin, b cos + a sin)."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        swapped = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * cos[:, None] + swapped * sin[:, None]


class PlacePositions(nn.Module):
    """Sinusoidal positions of the places in a frame, scaled to the size of the picture."""

    inv_freq: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size % 4:
            raise ValueError(f"hidden_size must be divisible by 4 for 2D positions, got {hidden_size}")
        half = hidden_size // 2
        exponents = torch.arange(0, half, 2, dtype=torch.float32) / half
        self.register_buffer("inv_freq", 10000.0**-exponents, persistent=False)

    def forward(self, rows: int, columns: int, scale: float) -> Tensor:
        """Return the table [1, rows*columns, C], row-major; the column's half of the channels comes first.

        Args:
            rows: Places from top to bottom.
            columns: Places from left to right.
            scale: Side of the picture in pixels (root of its area) over the side that the model was made for.
        """
        base = round((rows * columns) ** 0.5)
        vertical = self._axis(rows, base, scale)[:, None].expand(rows, columns, -1)
        horizontal = self._axis(columns, base, scale)[None].expand(rows, columns, -1)
        return torch.cat((horizontal, vertical), dim=-1).flatten(0, 1)[None].to(self.inv_freq.dtype)

    def _axis(self, length: int, base: int, scale: float) -> Tensor:
        """Sines, then cosines, of scaled positions along one axis, [length, C/2], in float32."""
        positions = torch.arange(length, dtype=torch.float32, device=self.inv_freq.device) / scale * (base / length)
        angles = positions[:, None] * self.inv_freq
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def repeat_rows(x: Tensor, batch: int, name: str) -> Tensor:
    """Repeat x [R, ...] as a whole until it has ``batch`` rows, so that guidance halves share it.

    Raises:
        ValueError: R does not divide ``batch``; names the tensor.
    """
    if batch % x.shape[0]:
        raise ValueError(f"{name} has {x.shape[0]} rows, which do not divide the batch of {batch}")
    return x.repeat(batch // x.shape[0], *(1,) * (x.ndim - 1))


def compact_text(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Move the tokens that count to the front and cut the rest.

    A softmax does not see masked keys, so a shorter text gives the same numbers, and rows of one length need no mask.

    Args:
        text: [B, L, C].
        mask: [B, L], nonzero where a token counts.

    Returns:
        Text [B, L', C] with L' the greatest count, and a mask [B, 1, 1, L'] or None if all rows have L' tokens.

    Raises:
        ValueError: A row keeps no token.
    """
    if mask is None:
        return text, None
    kept = mask != 0
    lengths = kept.sum(1)
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == 0:
        raise ValueError(f"row {int(lengths.argmin())} of the text mask keeps no token")
    order = torch.argsort(~kept, dim=1, stable=True)[:, :longest]
    text = text.take_along_dim(order[..., None], dim=1)
    if shortest == longest:
        return text, None
    return text, (torch.arange(longest, device=text.device) < lengths[:, None])[:, None, None]
