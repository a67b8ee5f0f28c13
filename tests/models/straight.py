"""STDiT3's forward pass written out without the seam: what the default run must equal bit for bit."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.models.stdit import STDiT3
from videoaccel.models.stdit_blocks import Block, GenerationContext


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return x * cos[:, None] + turned * sin[:, None]


def _block(
    block: Block,
    x: Tensor,
    modulation: Tensor,
    keys_values: tuple[Tensor, Tensor],
    text_mask: Tensor | None,
    rope: tuple[Tensor, Tensor],
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table + modulation).unbind(-2)
    attn, cross = block.attn, block.cross_attn
    h = _norm(x) * (1 + scale1) + shift1
    temporal = attn.axis == "time"
    h = attn.qkv(h)
    h = (h.transpose(1, 2) if temporal else h).flatten(0, 1)
    q, k, v = h.unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if temporal:
        q, k = _rotate(q, *rope), _rotate(k, *rope)
    h = _attention(q, k, v, None).unflatten(0, (x.shape[0], -1))
    x = x + gate1 * attn.proj(h.transpose(1, 2) if temporal else h)

    q = cross.q_linear(x).flatten(1, 2).unflatten(-1, (cross.num_heads, -1))
    x = x + cross.proj(_attention(q, *keys_values, text_mask).view(x.shape))

    h = _norm(x) * (1 + scale2) + shift2
    return x + gate2 * block.mlp.fc2(F.gelu(block.mlp.fc1(h), approximate="tanh"))


def keys_values(model: STDiT3, y: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Text keys and values of every block, computed on the spot."""
    text = model.y_embedder(y).squeeze(1)
    if mask is not None:
        rows = mask.repeat(len(y) // len(mask), 1) != 0
        kept = [row[chosen] for row, chosen in zip(text, rows, strict=True)]
        text = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    layers = [
        block.cross_attn for pair in zip(model.spatial_blocks, model.temporal_blocks, strict=True) for block in pair
    ]
    return [layer.kv_linear(text).unflatten(-1, (2, layer.num_heads, -1)).unbind(2) for layer in layers]


def straight_forward(
    model: STDiT3,
    x: Tensor,
    timestep: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None,
    x_mask: Tensor | None,
    fps: Tensor,
    height: float,
    width: float,
) -> Tensor:
    """The whole pass with direct calls, text keys and values included."""
    context = model.prepare(y, mask=mask, fps=fps, height=height, width=width, latent_size=x.shape[2:])
    context = context._replace(keys_values=tuple(keys_values(model, y, mask)))
    return straight_step(model, x, timestep, x_mask=x_mask, context=context)


def straight_step(
    model: STDiT3, x: Tensor, timestep: Tensor, *, x_mask: Tensor | None, context: GenerationContext
) -> Tensor:
    """The pass with direct calls on what was prepared."""
    tokens = model.x_embedder(x) + context.places
    time = model.t_embedder(timestep) + context.fps
    modulation = model.t_block(time)[:, None]
    if x_mask is not None:
        given_time = model.t_embedder(torch.zeros_like(timestep)) + context.fps
        modulation = torch.where(x_mask[..., None], modulation, model.t_block(given_time)[:, None])
    modulation = modulation.unflatten(-1, (6, -1)).unsqueeze(2)
    pairs = zip(model.spatial_blocks, model.temporal_blocks, strict=True)
    for block, text in zip([block for pair in pairs for block in pair], context.keys_values, strict=True):
        tokens = _block(block, tokens, modulation, text, context.text_mask, context.rotation)
    final = model.final_layer
    shift, scale = (final.scale_shift_table + time[:, None, None, None]).unbind(-2)
    tokens = _norm(tokens) * (1 + scale) + shift
    if x_mask is not None:
        shift, scale = (final.scale_shift_table + given_time[:, None, None, None]).unbind(-2)
        tokens = torch.where(x_mask[..., None, None], tokens, _norm(tokens) * (1 + scale) + shift)
    out = final.linear(tokens)
    grid, patch = model.token_grid(x.shape[2:]), model.patch_size
    assert out.shape[1:] == (grid[0], grid[1] * grid[2], math.prod(patch) * model.out_channels)
    out = out.unflatten(2, grid[1:]).unflatten(-1, (*patch, model.out_channels))
    out = torch.einsum("bthwijkc->bctihjwk", out).reshape(len(x), model.out_channels, *map(int.__mul__, grid, patch))
    return out[:, :, : x.shape[2], : x.shape[3], : x.shape[4]].float()
