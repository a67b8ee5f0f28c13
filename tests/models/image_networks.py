"""Small DiTs and PixArts, the same of diffusers, and inputs for both; importable by worker ranks."""

from contextlib import suppress
from typing import Any

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from torch import Tensor, nn

from videoaccel.models.checkpoint import load_strictly
from videoaccel.models.dit import DiT
from videoaccel.models.pixart import PixArt, PixArtSigma

CLASSES = 7
DIT = {
    "in_channels": 4, "out_channels": 8, "patch_size": 2, "num_attention_heads": 4, "attention_head_dim": 12,
    "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": CLASSES,
}  # fmt: skip
PIXART = {
    "in_channels": 4, "out_channels": 8, "patch_size": 2, "num_attention_heads": 4, "attention_head_dim": 12,
    "num_layers": 2, "sample_size": 8, "cross_attention_dim": 48, "caption_channels": 16,
}  # fmt: skip
TOLD = {"use_additional_conditions": True}
"""Of a PixArt-alpha for pictures of 1024 x 1024."""

SIGMA = {"use_additional_conditions": False, "sample_size": 128, "interpolation_scale": 2}
TEXT = 9


def original_dit(*, seed: int = 0, **fields: Any) -> DiTTransformer2DModel:
    """diffusers' network with every parameter, gates and norms too, away from its neutral value."""
    return _drawn(DiTTransformer2DModel(**{**DIT, **fields}), seed)


def original_pixart(*, seed: int = 0, **fields: Any) -> PixArtTransformer2DModel:
    """Likewise."""
    return _drawn(PixArtTransformer2DModel(**{**PIXART, **fields}), seed)


def tiny_dit(*, seed: int = 0, **fields: Any) -> DiT:
    """Ours with the same weights."""
    model = DiT(**{**DIT, **fields}).eval()
    load_strictly(model, original_dit(seed=seed, **fields).state_dict(), source="the original")
    return model


def tiny_pixart(*, seed: int = 0, **fields: Any) -> PixArt:
    """Likewise; a Sigma by its fields."""
    kind = PixArtSigma if fields.get("use_additional_conditions") is False else PixArt
    model = kind(**{**PIXART, **fields}).eval()
    load_strictly(model, original_pixart(seed=seed, **fields).state_dict(), source="the original")
    return model


def dit_inputs(
    size: tuple[int, int, int] = (1, 6, 10), *, batch: int = 2, guided: bool = True, seed: int = 1, **unused: Any
) -> dict[str, Any]:
    """Keyword arguments of a forward pass: other classes in every row, and none under guidance."""
    inputs = _latents(size, batch=batch, guided=guided, seed=seed)
    labels = [row % CLASSES for row in range(batch)] + [CLASSES] * (batch * guided)
    return inputs | {"y": torch.tensor(labels, dtype=torch.float32).view(-1, 1, 1, 1)}


def pixart_inputs(
    size: tuple[int, int, int] = (1, 6, 10),
    *,
    batch: int = 2,
    lengths: tuple[int, ...] | None = (4, 9),
    guided: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of a forward pass: ragged text and batched guidance unless told otherwise."""
    inputs = _latents(size, batch=batch, guided=guided, seed=seed)
    rows = len(inputs["x"])
    y = torch.randn(rows, 1, TEXT, 16, generator=torch.Generator().manual_seed(seed + 1))
    mask = None if lengths is None else (torch.arange(TEXT) < torch.tensor(lengths)[:, None]).long()
    return inputs | {"y": y, "mask": mask, "height": 8.0 * size[1], "width": 8.0 * size[2]}


def original_dit_pass(model: DiTTransformer2DModel, x: Tensor, timestep: Tensor, y: Tensor) -> Tensor:
    """diffusers' forward pass on squares; of other sizes what enters its last part, which takes squares only."""
    tokens: list[Tensor] = []
    model.proj_out_2.register_forward_hook(lambda module, given, out: tokens.append(out))
    labels = y.flatten().long()
    if x.shape[-1] == x.shape[-2]:
        return model(x[:, :, 0], timestep=timestep, class_labels=labels).sample[:, :, None]
    with suppress(RuntimeError):  # its reshape to a square
        model(x[:, :, 0], timestep=timestep, class_labels=labels)
    patch, (rows, columns) = model.patch_size, (side // model.patch_size for side in x.shape[-2:])
    out = tokens[-1].view(len(x), rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", out).reshape(len(x), -1, 1, *x.shape[-2:])


def original_pixart_pass(
    model: PixArtTransformer2DModel,
    x: Tensor,
    timestep: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None,
    height: float,
    width: float,
) -> Tensor:
    """diffusers' forward pass."""
    mask = None if mask is None else mask.repeat(len(x) // len(mask), 1)
    size = {"resolution": torch.tensor([[height, width]]), "aspect_ratio": torch.tensor([[height / width]])}
    told = {name: value.repeat(len(x), 1) for name, value in size.items()}
    return model(
        x[:, :, 0],
        encoder_hidden_states=y.squeeze(1),
        encoder_attention_mask=mask,
        timestep=timestep,
        added_cond_kwargs=told if model.use_additional_conditions else {"resolution": None, "aspect_ratio": None},
    ).sample[:, :, None]


def _drawn(model: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim == 1 or "table" in name else parameter[0].numel() ** -0.5
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 1.0 * norm)
    return model.eval()


def _latents(size: tuple[int, int, int], *, batch: int, guided: bool, seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    rows = batch * (2 if guided else 1)
    x = torch.randn(batch, 4, *size, generator=g).repeat(rows // batch, 1, 1, 1, 1)
    timestep = torch.randint(1000, (batch,), generator=g).repeat(rows // batch)
    return {"x": x, "timestep": timestep}
