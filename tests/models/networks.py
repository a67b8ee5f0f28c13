"""Small networks and inputs for tests; importable by worker ranks."""

from typing import Any

import torch
from torch import Tensor

from videoaccel.models.stdit import STDiT3


def tiny_stdit(*, depth: int = 2, seed: int = 0, **fields: Any) -> STDiT3:
    """An STDiT3 whose every parameter, gates and norms too, is away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    config = {"hidden_size": 48, "num_heads": 4, "caption_channels": 16, "model_max_length": 9, "input_sq_size": 64}
    model = STDiT3(**{**config, "depth": depth, **fields}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "rope.freqs":
                continue
            spread = 0.3 if parameter.ndim == 1 or "table" in name else parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 1.0 * ("norm.weight" in name))
    return model


def stdit_inputs(
    size: tuple[int, int, int] = (3, 7, 9),
    *,
    batch: int = 2,
    lengths: tuple[int, ...] | None = (4, 9),
    given: bool = True,
    guided: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of a forward pass: ragged text, given frames and batched guidance unless told otherwise."""
    g = torch.Generator().manual_seed(seed)
    rows = batch * (2 if guided else 1)
    x = torch.randn(batch, 4, *size, generator=g).repeat(rows // batch, 1, 1, 1, 1)
    timestep = (torch.rand(batch, generator=g) * 1000).repeat(rows // batch)
    y = torch.randn(rows, 1, 9, 16, generator=g)
    mask: Tensor | None = None
    if lengths is not None:
        mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    x_mask = None
    if given:
        x_mask = torch.rand(batch, size[0], generator=g) < 0.6
        x_mask[:, 0] = False
        x_mask = x_mask.repeat(rows // batch, 1)
    return {
        "x": x, "timestep": timestep, "y": y, "mask": mask, "x_mask": x_mask,
        "fps": torch.tensor([24.0, 8.0][:batch]), "height": size[1] * 4.0, "width": size[2] * 4.0,
    }  # fmt: skip
