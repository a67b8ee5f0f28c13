"""DDIM against diffusers' scheduler and against the paper's formula, and Latte's loop against diffusers'."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from tests.models.latte_networks import latte_inputs, original_latte, original_pass, tiny_latte
from videoaccel.generation.denoise import Network, denoise
from videoaccel.models.seam import direct
from videoaccel.sampling.ddim import DDIMSchedule
from videoaccel.session.job import Job
from videoaccel.session.policy import Session

RELEASED: dict[str, Any] = {
    "_class_name": "DDIMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995, "num_train_timesteps": 1000, "prediction_type": "epsilon",
    "sample_max_value": 1.0, "thresholding": False, "timestep_spacing": "leading", "trained_betas": None,
    "variance_type": "learned_range", "clip_sample": False,
}  # fmt: skip
"""scheduler/scheduler_config.json of maxin-cn/Latte-1."""
SCHEDULES = [
    {},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    {"beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1},
    {"clip_sample": True, "prediction_type": "sample", "timestep_spacing": "linspace"},
]


def both(**fields: Any) -> tuple[DDIMSchedule, DDIMScheduler]:
    return DDIMSchedule.from_config({**RELEASED, **fields}), DDIMScheduler.from_config({**RELEASED, **fields})


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("fields", SCHEDULES, ids=str)
def test_steps_are_those_of_diffusers(fields: dict[str, Any], steps: int) -> None:
    ours, theirs = both(**fields)
    ours.set_timesteps(steps, height=512, width=512, num_frames=16, dtype=torch.float32)
    theirs.set_timesteps(steps)
    assert torch.equal(ours.timesteps, theirs.timesteps[:, None]) and ours.sigmas.shape == (1, steps + 1)
    assert (ours.sigmas.diff() < 0).all()
    step = ours.stepper()
    ours.set_timesteps(3)  # another run's, which must not disturb this one
    g = torch.Generator().manual_seed(0)
    x = expected = torch.randn(2, 4, 3, 2, 2, generator=g)
    for i, t in enumerate(theirs.timesteps):
        output = torch.randn(x.shape, generator=g)
        x, expected = step(i, x, output), theirs.step(output, t, expected).prev_sample
    assert torch.equal(x, expected)


def test_the_right_noise_leads_to_the_data() -> None:
    """x_t = sqrt(a) data + sqrt(1 - a) noise at every step, if the network tells that noise."""
    schedule, _ = both()
    schedule.set_timesteps(10)
    step = schedule.stepper()
    g = torch.Generator().manual_seed(0)
    data, noise = torch.randn(1, 4, 1, 2, 2, generator=g), torch.randn(1, 4, 1, 2, 2, generator=g)
    sigmas = schedule.sigmas[0]
    assert sigmas[-1] == 0 and 0.99 < sigmas[0] < 1
    x = (1 - sigmas[0] ** 2).sqrt() * data + sigmas[0] * noise
    for i in range(10):
        x = step(i, x, noise)
        expected = (1 - sigmas[i + 1] ** 2).sqrt() * data + sigmas[i + 1] * noise
        torch.testing.assert_close(x, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(x, data, atol=1e-4, rtol=0)


def test_wrong_fields_and_steps_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown DDIMSchedule fields \['betas_start'\]"):
        DDIMSchedule.from_config({"betas_start": 0.1})
    with pytest.raises(ValueError, match="1001"):
        both()[0].set_timesteps(1001)


@torch.inference_mode()
def original_loop(noise: Tensor, inputs: dict[str, Any], *, steps: int, guidance: float) -> Tensor:
    """The loop of diffusers' LattePipeline: guidance on all channels, then the half that is not a variance."""
    model, (_, scheduler), x = original_latte(), both(), noise
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        out = original_pass(model, torch.cat([x] * 2), t.expand(2 * len(x)), inputs["y"], mask=inputs["mask"])
        text, null = out.chunk(2)
        x = scheduler.step((null + guidance * (text - null))[:, : x.shape[1]], t, x).prev_sample
    return x


@pytest.mark.parametrize("size", [(4, 8, 8), (1, 6, 10)])
@torch.inference_mode()
def test_latte_denoises_as_in_diffusers(size: tuple[int, int, int]) -> None:
    inputs = latte_inputs(size)
    noise = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3))
    model, (schedule, _) = tiny_latte(), both()
    schedule.set_timesteps(6)
    context = model.prepare(inputs["y"], mask=inputs["mask"], latent_size=size)
    job = Job(schedule.sigmas.expand(2, -1), noise.shape[1:], 7.5, ("cond", "uncond"), None, 12, torch.float32, seed=0)
    made = {}
    for name, session in {"plain": Session(job), "session": Session(job)}.items():
        run = direct if name == "plain" else session.run
        made[name] = denoise(
            noise,
            schedule.timesteps.expand(-1, 2),
            network=Network(model, context, branches=job.branches, run=run),
            session=session,
            guidance_scale=7.5,
            update=schedule.stepper(),
        )
    expected = original_loop(noise, inputs, steps=6, guidance=7.5)
    torch.testing.assert_close(made["plain"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(made["plain"], made["session"])
