"""Linear layers whose products run in 8-bit floats (e4m3), a scale for every token and every output.

Weights keep their type beside the 8-bit copy: what a method does with a part of them is computed as before.

Shape legend: M tokens, K inputs, O outputs.

Source: row-wise scaling as in FP8-LM and torchao; the first and last blocks are left as they are, as is usual.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float8_e4m3fn).max
"""Largest finite number of the type, float8_e4m3fn."""

TEXT = "kv_linear"
"""Text keys and values are computed once a generation: nothing to gain."""


class Rows(NamedTuple):
    """Tokens in 8 bits, ready for a product.

    Attributes:
        values: float8_e4m3fn [M, K].
        scales: float32 [M, 1].
        shape: Of the tokens, [..., K].
        dtype: Their type, which the product is in, too.
    """

    values: Tensor
    scales: Tensor
    shape: torch.Size
    dtype: torch.dtype


class Fp8Linear(nn.Linear):
    """A linear layer with an 8-bit copy of its weight [O, K] and a scale for each output [1, O]."""

    form_of = nn.Linear
    weight8: Tensor
    scale8: Tensor

    def forward(self, x: Tensor | Rows) -> Tensor:
        """[..., K], or that in 8 bits already -> [..., O]."""
        return self._product(x if isinstance(x, Rows) else _rows(x, gelu=False))

    def of_gelu(self, x: Tensor) -> Tensor:
        """The layer of the tanh-GELU of x [..., K]."""
        return self._product(_rows(x, gelu=True))

    def _product(self, x: Rows) -> Tensor:
        out = torch._scaled_mm(
            x.values,
            self.weight8.t(),
            scale_a=x.scales,
            scale_b=self.scale8,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return out.view(*x.shape[:-1], -1)


def _rows(x: Tensor, *, gelu: bool) -> Rows:
    values, scales = in_eight_bits(x.reshape(-1, x.shape[-1]), gelu=gelu)
    return Rows(values, scales, x.shape, x.dtype)


def in_eight_bits(x: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """Rows x [M, K], or the tanh-GELU of them, as float8_e4m3fn [M, K] and their scales [M, 1]."""
    if x.is_cuda:
        from videoaccel.models.kernels.quantize import quantize

        return quantize(x, gelu=gelu)
    values = (F.gelu(x, approximate="tanh") if gelu else x).float()
    scales = values.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (values / scales).to(torch.float8_e4m3fn), scales


@torch.no_grad()
def quantize_linears(model: nn.Module, *, leave: int = 1) -> int:
    """Let the linear layers of a network's blocks run in 8 bits; returns how many do.

    Args:
        model: A network with ``blocks``.
        leave: Pairs of blocks at either end that stay as they are.
    """
    blocks = cast(list[nn.Module], model.blocks)
    count = 0
    for block in blocks[2 * leave : len(blocks) - 2 * leave]:
        for name, layer in block.named_modules():
            if type(layer) is nn.Linear and not name.endswith(TEXT):
                scale = layer.weight.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST
                layer.register_buffer("weight8", (layer.weight / scale).to(torch.float8_e4m3fn), persistent=False)
                layer.register_buffer("scale8", scale.t().contiguous(), persistent=False)
                layer.__class__ = Fp8Linear
                count += 1
    return count
