"""Latte's forward pass written out without the seam: what the default run must equal bit for bit."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.models.basic_blocks import BlockContext, SingleBlock
from videoaccel.models.latte import Latte


def straight_attention(layers: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention and the linear map after it, q, k and v [M, L, N, D]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return layers.to_out[0](F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


def straight_heads(layers: torch.nn.Module, x: Tensor, *names: str) -> list[Tensor]:
    """Queries, keys or values [M, L, N, D] of x [M, L, C], by name."""
    return [getattr(layers, f"to_{name}")(x).unflatten(-1, (layers.num_heads, -1)) for name in names]


def _block(
    block: SingleBlock, x: Tensor, modulation: Tensor, text: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table + modulation).unbind(-2)
    temporal = block.axis == "time"
    h = block.norm1(x) * (1 + scale1) + shift1
    rows = (h.transpose(1, 2) if temporal else h).flatten(0, 1)
    h = straight_attention(block.attn1, *straight_heads(block.attn1, rows, "q", "k", "v")).unflatten(0, (len(x), -1))
    x = x + gate1 * (h.transpose(1, 2) if temporal else h)
    if block.attn2 is not None:
        (q,) = straight_heads(block.attn2, x.flatten(1, 2), "q")
        x = x + straight_attention(block.attn2, q, *text, mask).view(x.shape)
    h = block.norm2(x) * (1 + scale2) + shift2
    first, second = block.ff.net["0"].proj, block.ff.net["2"]
    return x + gate2 * second(F.gelu(first(h), approximate=block.ff.approximate))


def straight_latte(
    model: Latte,
    x: Tensor,
    timestep: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None,
    enable_temporal_attentions: bool = True,
) -> Tensor:
    """The whole pass with direct calls, text keys and values made on the spot."""
    context = model.prepare(y, mask=mask, latent_size=x.shape[2:])
    tokens = model.pos_embed(x)
    tokens = (tokens + context.places).to(tokens.dtype)
    modulation, time = model.adaln_single(timestep)
    for spatial, temporal in zip(model.transformer_blocks, model.temporal_transformer_blocks, strict=True):
        text = _text(model, spatial, y, mask, context)
        tokens = _block(spatial, tokens, modulation[:, None, None], text, context.text_mask)
        if enable_temporal_attentions:
            if temporal.layer == 0 and context.times is not None:
                tokens = tokens + context.times
            tokens = _block(temporal, tokens, modulation[:, None, None], (), None)
    shift, scale = (model.scale_shift_table + time[:, None, None, None]).unbind(-2)
    tokens = F.layer_norm(tokens, (tokens.shape[-1],), eps=1e-6) * (1 + scale) + shift
    grid, patch = model.token_grid(x.shape[2:]), model.config.patch_size
    out = model.proj_out(tokens).unflatten(2, grid[1:]).unflatten(-1, (patch, patch, model.out_channels))
    return torch.einsum("bthwpqc->bcthpwq", out).flatten(5).flatten(3, 4).float()


def _text(
    model: Latte, block: SingleBlock, y: Tensor, mask: Tensor | None, context: BlockContext
) -> tuple[Tensor, ...]:
    if block.attn2 is None:
        return ()
    text = model.caption_projection(y.squeeze(1))
    if mask is not None:
        rows = mask.repeat(len(y) // len(mask), 1) != 0
        kept = [row[chosen] for row, chosen in zip(text, rows, strict=True)]
        text = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    return tuple(straight_heads(block.attn2, text, "k", "v"))
