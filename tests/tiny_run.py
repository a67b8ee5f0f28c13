"""A denoising run of the tiny network, ready to start from any step."""

from collections.abc import Sequence
from typing import Any

import torch

from tests.models.networks import stdit_inputs, tiny_stdit
from videoaccel.generation.prepared import Denoising
from videoaccel.models.stdit import GenerationContext, STDiT3
from videoaccel.sampling.rectified_flow import euler

SIZE = (3, 8, 8)


def tiny_run(*, model: STDiT3 | None = None, steps: int = 5, batch: int = 1, seed: int = 5, **fields: Any) -> Denoising:
    """Five steps with guidance of a two-layer network on a random text."""
    model = model or tiny_stdit()
    inputs = stdit_inputs(SIZE, batch=batch, given=False, lengths=None, seed=seed)
    pixels = {"fps": torch.tensor([8.0]), "height": 64.0, "width": 64.0}

    def context_of(size: Sequence[int]) -> GenerationContext:
        return model.prepare(inputs["y"], **pixels, latent_size=size)

    sigmas = torch.linspace(1, 0, steps + 1).expand(batch, -1)
    timesteps = 1000 * sigmas[:, :-1].T
    return Denoising(
        model=model,
        context=context_of(SIZE),
        context_of=context_of,
        branches=("cond", "uncond"),
        guidance_scale=4.0,
        z=torch.randn(batch, 4, *SIZE, generator=torch.Generator().manual_seed(seed)),
        timesteps=timesteps,
        sigmas=sigmas,
        update=euler(timesteps),
        mask=None,
        draw=lambda: torch.zeros(()),
        seed=seed,
        **fields,
    )
