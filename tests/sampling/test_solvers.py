"""DDPM, DPM-Solver++ and LCM against diffusers' schedulers, and started anew from the middle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from videoaccel.sampling.noise import SampleNoise
from videoaccel.sampling.solvers import DDPMSchedule, DPMSolverSchedule, LCMSchedule

DIT: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
PIXART: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "dynamic_thresholding_ratio": 0.995, "euler_at_final": False,
    "lambda_min_clipped": float("-inf"), "lower_order_final": True, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint",
    "steps_offset": 0, "thresholding": False, "timestep_spacing": "linspace", "trained_betas": None,
    "use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None,
}  # fmt: skip
"""scheduler/scheduler_config.json of PixArt-alpha/PixArt-XL-2-512x512, with the fields that say nothing here."""

CASES = [
    (DDPMSchedule, DDPMScheduler, DIT),
    (DDPMSchedule, DDPMScheduler, DIT | {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    (DPMSolverSchedule, DPMSolverMultistepScheduler, PIXART),
    (DPMSolverSchedule, DPMSolverMultistepScheduler, PIXART | {"solver_order": 3, "use_karras_sigmas": True}),
    (DPMSolverSchedule, DPMSolverMultistepScheduler, PIXART | {"solver_type": "heun"}),
    (DPMSolverSchedule, DPMSolverMultistepScheduler, PIXART | {"algorithm_type": "sde-dpmsolver++"}),
    (LCMSchedule, LCMScheduler, {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}),
]  # fmt: skip
CLASSES = [(kind, fields) for kind, _, fields in CASES]


def schedule_of(kind: Any, fields: dict[str, Any], *, steps: int) -> Any:
    schedule = kind.from_config(fields)
    schedule.set_timesteps(steps, height=512, width=512, num_frames=1, dtype=torch.float32)
    return schedule


def noise_of(*seeds: int) -> Callable[[int], list[torch.Generator]]:
    return SampleNoise.from_seeds(seeds).of_steps()


def told(x: Tensor) -> Tensor:
    """A network."""
    return torch.tanh(x.flip(-1)) + 0.1 * x


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("ours, theirs, fields", CASES, ids=str)
@torch.inference_mode()
def test_steps_are_those_of_diffusers(ours: Any, theirs: Any, fields: dict[str, Any], steps: int) -> None:
    schedule, original = schedule_of(ours, fields, steps=steps), theirs.from_config(fields)
    original.set_timesteps(steps)
    assert torch.equal(schedule.timesteps, original.timesteps[:, None]) and schedule.sigmas.shape == (1, steps + 1)
    assert (schedule.sigmas.diff() < 0).all() and 0 < schedule.sigmas[0, 0] < 1
    step, noise = schedule.stepper(noise_of(3, 4)), noise_of(3, 4)
    schedule.set_timesteps(3)  # another run's, which must not disturb this one
    x = expected = torch.randn(2, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(original.timesteps):
        x = step(i, x, told(x))
        expected = original.step(told(expected), t, expected, generator=noise(i)).prev_sample
    assert torch.equal(x, expected)


@pytest.mark.parametrize("kind, fields", CLASSES, ids=str)
@torch.inference_mode()
def test_a_run_goes_on_from_any_of_its_latents(kind: Any, fields: dict[str, Any]) -> None:
    """In any order, and after other runs of the same steps."""
    step = schedule_of(kind, fields, steps=6).stepper(noise_of(3))
    latents = [torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))]

    def run(x: Tensor, start: int, *, moved: float = 0.0) -> list[Tensor]:
        seen = [x]
        for i in range(start, 6):
            seen.append(step(i, seen[-1], told(seen[-1]) + moved * (i == start)))
        return seen

    latents = run(latents[0], 0)
    for start in (4, 1, 5, 0, 2):
        assert not torch.equal(run(latents[start], start, moved=0.1)[-1], latents[-1])
        assert torch.equal(run(latents[start], start)[-1], latents[-1])


@torch.inference_mode()
def test_a_strange_latent_is_where_the_solver_begins() -> None:
    """One that a callback has put in place of another has no history: a step of first order."""
    step = schedule_of(DPMSolverSchedule, PIXART, steps=6).stepper()
    first = schedule_of(DPMSolverSchedule, PIXART | {"solver_order": 1}, steps=6).stepper()
    x = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    moved = step(0, x, told(x))
    assert torch.equal(step(1, moved.clone(), told(moved)), first(1, moved, told(moved)))
    assert not torch.equal(step(1, moved, told(moved)), first(1, moved, told(moved)))


def test_noise_is_a_samples_own_whatever_the_batch() -> None:
    together, apart = noise_of(3, 4), [noise_of(3), noise_of(4)]
    for step in (0, 7, 249):
        drawn = [torch.randn(3, generator=g) for g in together(step)]
        assert all(torch.equal(a, torch.randn(3, generator=b(step)[0])) for a, b in zip(drawn, apart, strict=True))
        assert torch.equal(torch.randn(3, generator=together(step)[0]), drawn[0]), "whenever it is asked for"
        assert not torch.equal(drawn[0], drawn[1])
    source = SampleNoise.from_seeds([3])
    before = source.of_steps()
    source.draw((2,))  # the noise that a second clip begins with
    first, second = (torch.randn(3, generator=noise(0)[0]) for noise in (before, source.of_steps()))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (DDPMSchedule, {"betas_start": 0.1}, r"unknown DDPMSchedule fields \['betas_start'\]"),
        (DDPMSchedule, {"variance_type": "learned_range"}, "takes no variance from the network"),
        (DPMSolverSchedule, {"betas_start": 0.1}, r"unknown DPMSolverSchedule fields \['betas_start'\]"),
    ],
)
def test_wrong_fields_are_named(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.from_config(fields)


@pytest.mark.parametrize("kind, fields", [CLASSES[0], *CLASSES[-2:]], ids=str)
def test_too_many_steps_and_missing_noise_are_named(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1001"):
        schedule_of(kind, fields, steps=1001)
    with pytest.raises(ValueError, match=r"draw.* noise in every step: stepper needs generators"):
        schedule_of(kind, fields, steps=4).stepper()
