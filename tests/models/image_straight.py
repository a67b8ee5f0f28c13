"""DiT's and PixArt's forward passes written out without the seam: what the default runs must equal bit for bit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.latte_straight import straight_attention, straight_heads
from videoaccel.models.dit import DiT
from videoaccel.models.pixart import PixArt


def straight_dit(model: DiT, x: Tensor, timestep: Tensor, y: Tensor) -> Tensor:
    """The whole pass with direct calls, classes embedded on the spot."""
    labels = y.flatten().long()
    tokens = _embed(model, x, model.prepare(y, latent_size=x.shape[2:]).places)
    for block in model.transformer_blocks:
        norm = block.norm1
        embedded = norm.emb["timestep_embedder"](timestep) + norm.emb["class_embedder"].embedding_table(labels)
        if block.layer == 0:
            last = model.proj_out_1(F.silu(embedded))
        table = norm.linear(F.silu(embedded))[:, None, None].chunk(6, dim=-1)
        h = F.layer_norm(tokens, (tokens.shape[-1],), eps=1e-6) * (1 + table[1]) + table[0]
        tokens = tokens + table[2] * _self_attention(block, h)
        h = block.norm3(tokens) * (1 + table[4]) + table[3]
        tokens = tokens + table[5] * _mlp(block, h)
    shift, scale = last[:, None, None].chunk(2, dim=-1)
    return _picture(model, tokens, shift, scale, model.proj_out_2, x)


def straight_pixart(
    model: PixArt, x: Tensor, timestep: Tensor, y: Tensor, *, mask: Tensor | None, height: float, width: float
) -> Tensor:
    """The whole pass with direct calls, text keys and values made on the spot."""
    size = {"height": height, "width": width}
    context = model.prepare(y, mask=mask, **size, latent_size=x.shape[2:])
    tokens = _embed(model, x, context.places)
    time = model.adaln_single.emb["timestep_embedder"](timestep)
    if model.is_told_size:
        sides = torch.tensor([height, width]).repeat(len(x))
        told = model.adaln_single.emb["resolution_embedder"](sides).view(len(x), -1)
        ratio = model.adaln_single.emb["aspect_ratio_embedder"](torch.tensor([height / width]).repeat(len(x)))
        time = time + torch.cat((told, ratio), dim=1)
    modulation = model.adaln_single.linear(F.silu(time)).view(len(x), 1, 1, 6, -1)
    text = model.caption_projection(y.squeeze(1))
    if mask is not None:
        rows = mask.repeat(len(y) // len(mask), 1) != 0
        kept = [row[chosen] for row, chosen in zip(text, rows, strict=True)]
        text = nn.utils.rnn.pad_sequence(kept, batch_first=True)
    for block in model.transformer_blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table + modulation).unbind(-2)
        tokens = tokens + gate1 * _self_attention(block, block.norm1(tokens) * (1 + scale1) + shift1)
        (q,) = straight_heads(block.attn2, tokens.flatten(1, 2), "q")
        k, v = straight_heads(block.attn2, text, "k", "v")
        tokens = tokens + straight_attention(block.attn2, q, k, v, context.text_mask).view(tokens.shape)
        tokens = tokens + gate2 * _mlp(block, block.norm2(tokens) * (1 + scale2) + shift2)
    shift, scale = (model.scale_shift_table + time[:, None, None, None]).unbind(-2)
    return _picture(model, tokens, shift, scale, model.proj_out, x)


def _embed(model: DiT | PixArt, x: Tensor, places: Tensor) -> Tensor:
    patches = model.pos_embed.proj(x.squeeze(2)).flatten(2).transpose(1, 2)[:, None]
    return patches + places


def _self_attention(block: nn.Module, h: Tensor) -> Tensor:
    rows = h.flatten(0, 1)
    return straight_attention(block.attn1, *straight_heads(block.attn1, rows, "q", "k", "v"))[:, None]


def _mlp(block: nn.Module, h: Tensor) -> Tensor:
    first, second = block.ff.net["0"].proj, block.ff.net["2"]
    return second(F.gelu(first(h), approximate=block.ff.approximate))


def _picture(model: DiT | PixArt, tokens: Tensor, shift: Tensor, scale: Tensor, last: nn.Linear, x: Tensor) -> Tensor:
    tokens = F.layer_norm(tokens, (tokens.shape[-1],), eps=1e-6) * (1 + scale) + shift
    grid, patch = model.token_grid(x.shape[2:]), model.config.patch_size
    out = last(tokens).unflatten(2, grid[1:]).unflatten(-1, (patch, patch, model.out_channels))
    return torch.einsum("bthwpqc->bcthpwq", out).flatten(5).flatten(3, 4).float()
