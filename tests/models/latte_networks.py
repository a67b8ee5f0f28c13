"""Small Lattes, the same of diffusers, and inputs for both; importable by worker ranks."""

from typing import Any

import torch
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel
from torch import Tensor

from videoaccel.models.checkpoint import load_strictly
from videoaccel.models.latte import Latte

CONFIG = {
    "in_channels": 4, "out_channels": 8, "patch_size": 2, "caption_channels": 16, "num_attention_heads": 4,
    "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 48, "attention_bias": True, "sample_size": 8,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "video_length": 4,
}  # fmt: skip
TEXT = 9


def original_latte(*, seed: int = 0, **fields: Any) -> LatteTransformer3DModel:
    """diffusers' network with every parameter, gates and norms too, away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    model = LatteTransformer3DModel(**{**CONFIG, **fields}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim == 1 or "table" in name else parameter[0].numel() ** -0.5
            norm = name.endswith("weight") and "norm" in name
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 1.0 * norm)
    return model


def tiny_latte(*, seed: int = 0, **fields: Any) -> Latte:
    """Ours with the same weights."""
    model = Latte(**{**CONFIG, **fields}).eval()
    load_strictly(model, original_latte(seed=seed, **fields).state_dict(), source="the original")
    return model


def latte_inputs(
    size: tuple[int, int, int] = (4, 6, 10),
    *,
    batch: int = 2,
    lengths: tuple[int, ...] | None = (4, 9),
    guided: bool = True,
    temporal: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of a forward pass: ragged text and batched guidance unless told otherwise."""
    g = torch.Generator().manual_seed(seed)
    rows = batch * (2 if guided else 1)
    x = torch.randn(batch, 4, *size, generator=g).repeat(rows // batch, 1, 1, 1, 1)
    timestep = torch.randint(1000, (batch,), generator=g).repeat(rows // batch)
    y = torch.randn(rows, 1, TEXT, 16, generator=g)
    mask = None if lengths is None else (torch.arange(TEXT) < torch.tensor(lengths)[:, None]).long()
    inputs = {"x": x, "timestep": timestep, "y": y, "mask": mask}
    return inputs if temporal else inputs | {"enable_temporal_attentions": False}


def original_pass(
    model: LatteTransformer3DModel,
    x: Tensor,
    timestep: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None,
    enable_temporal_attentions: bool = True,
) -> Tensor:
    """diffusers' forward pass. It wants a text mask once per frame, and as booleans: the attention gets it as it is."""
    if mask is not None:
        mask = mask.bool().repeat(len(x) // len(mask), 1).repeat_interleave(x.shape[2], dim=0)[:, None]
    return model(
        hidden_states=x,
        timestep=timestep,
        encoder_hidden_states=y.squeeze(1),
        encoder_attention_mask=mask,
        enable_temporal_attentions=enable_temporal_attentions,
    ).sample
