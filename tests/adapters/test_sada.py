"""SADA on pipelines of diffusers' own classes with tiny random networks."""

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.image_pipes import dpm, euler, flow
from tests.adapters.tiny import Tiny
from videoaccel.adapters.solvers import preserving
from videoaccel.generation.accelerate import accelerate

STEPS = 12

SYSTEMS: dict[str, Callable[[], Tiny]] = {
    "stable diffusion 2, dpm": lambda: images.stable_diffusion(dpm()),
    "stable diffusion 2, v, euler": lambda: images.stable_diffusion(euler(prediction_type="v_prediction")),
    "stable diffusion 2, ddim": lambda: images.stable_diffusion(diffusers.DDIMScheduler()),
    "sdxl, euler": images.stable_diffusion_xl,
    "controlnet, dpm": images.control_net,
    "flux, guided": images.flux_true_guidance,
    "dit, which predicts a variance": images.dit,
    "wan, euler": lambda: videos.wan(flow()),
    "wan, unipc": videos.wan,
    "musicldm, dpm": images.music_ldm,
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_skips_and_comes_off_without_trace(name: str) -> None:
    tiny = SYSTEMS[name]()
    exact, calls = tiny(), tiny.calls.total()

    # Straight nearly everywhere, so all that windows, runs and reach allow is skipped.
    attached = accelerate(tiny.pipe, "sada", threshold=1e6)
    fast = tiny()
    assert attached.computed == [0, 1, 2, 5, 8, 10, 11]
    assert tiny.calls.total() * STEPS == calls * 7
    assert fast.finite() and fast.same_draws(exact) and 0 < fast.away_from(exact) < 1
    other = tiny(seed=1)
    assert not other.equals(fast)
    assert tiny().equals(fast), "nothing is left of the generation before"
    attached.remove()

    accelerate(tiny.pipe, "sada", threshold=1e-9)
    with pytest.warns(UserWarning, match="sada computed all of .* calls: the error that is foretold is above"):
        assert tiny().equals(exact), "nothing skipped, nothing changed"
    assert accelerate(tiny.pipe, None) is None
    assert tiny().equals(exact)


def test_the_second_network_is_not_answered_from_the_first() -> None:
    tiny = videos.wan_two()
    attached = accelerate(tiny.pipe, "sada", threshold=1e6)
    assert tiny(steps=20).finite()
    first = next(row for row in attached.report().streams if (row.component, row.context) == ("transformer", "cond"))
    boundary = first.computed + first.forecast
    assert {boundary, boundary + 1} <= set(attached.computed), "its first two evaluations are computed"
    assert set(attached.computed) < set(range(20))


def by_hand(tiny: Tiny, latents: Tensor, *, threshold: float, guidance: float) -> tuple[Tensor, list[int]]:
    """The posterior rule written out: latents and computed steps, with diffusers' scheduler."""
    scheduler, unet = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config), tiny.pipe.unet
    scheduler.set_timesteps(STEPS)
    text = torch.cat([tiny.options["negative_prompt_embeds"], tiny.options["prompt_embeds"]])
    x, nodes, computed, error = latents * scheduler.init_noise_sigma, [], [], math.inf
    for i, t in enumerate(scheduler.timesteps):
        edm = float(scheduler.sigmas[i])
        alpha = 1 / math.sqrt(1 + edm**2)
        here, sigma, seen = -math.log(edm), alpha * edm, scheduler.scale_model_input(x, t)
        skip = False
        if 3 <= i < STEPS - 2 and i - computed[-1] <= 2:
            (a, _), (b, _) = nodes[-2:]
            skip = (here - b) / (b - a) <= 3 and error * abs((here - a) * (here - b)) < threshold
        if skip:
            (a, first), (b, second) = nodes[-2:]
            data = second + (here - b) / (b - a) * (second - first)
            noise = (seen - alpha * data) / sigma
        else:
            uncond, cond = unet(torch.cat([seen] * 2), t, encoder_hidden_states=text).sample.chunk(2)
            noise = uncond + guidance * (cond - uncond)
            data = (seen - sigma * noise) / alpha
            if len(nodes) >= 2:
                (a, first), (b, second) = nodes[-2:]
                off = second + (here - b) / (b - a) * (second - first) - data
                error = float(off.norm() / data.norm()) / abs((here - a) * (here - b))
            nodes.append((here, data))
            computed.append(i)
        x = scheduler.step(noise, t, x).prev_sample
    return x, computed


@torch.no_grad()
@pytest.mark.parametrize("scheduler", [dpm, euler, lambda: dpm(use_karras_sigmas=True)])
@pytest.mark.parametrize("threshold", [0.003, 0.03, 0.1, 0.5])
def test_decisions_and_latents_are_those_of_a_run_by_hand(scheduler: Any, threshold: float) -> None:
    tiny = images.stable_diffusion(scheduler())
    latents = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(4))
    expected, computed = by_hand(tiny, latents, threshold=threshold, guidance=5.0)
    attached = accelerate(tiny.pipe, "sada", threshold=threshold)
    (found,) = tiny(latents=latents.clone(), guidance_scale=5.0).tensors
    assert attached.computed == computed
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_flow_extrapolates_its_velocity() -> None:
    """Wan's two calls a step, against a loop with the network and Euler's formula."""
    tiny = videos.wan(flow())
    attached = accelerate(tiny.pipe, "sada", threshold=1e6)
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.manual_seed(4))
    (found,) = tiny(latents=latents.clone(), guidance_scale=3.0).tensors
    scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    x, nodes = latents, []
    for i, t in enumerate(scheduler.timesteps):
        here, ahead = scheduler.sigmas[i : i + 2].tolist()
        if i in attached.computed:
            cond, uncond = (
                tiny.pipe.transformer(x, t.expand(1), encoder_hidden_states=tiny.options[name]).sample
                for name in ("prompt_embeds", "negative_prompt_embeds")
            )
            nodes.append((here, uncond + 3.0 * (cond - uncond)))
            velocity = nodes[-1][1]
        else:
            (a, first), (b, second) = nodes[-2:]
            velocity = second + (here - b) / (b - a) * (second - first)
        x = x + (ahead - here) * velocity
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", [dpm, euler])
def test_outputs_and_data_predictions_turn_into_each_other(scheduler: Any, kind: str) -> None:
    made = scheduler(prediction_type=kind)
    made.set_timesteps(8)
    solver = preserving(made)
    assert solver is not None
    x, output = torch.randn(2, 1, 4, 8, 8, generator=torch.manual_seed(0))
    for i in (0, 3, 7):
        data = solver.known(i, x, output)
        torch.testing.assert_close(solver.output(i, x, data), output, atol=1e-4, rtol=1e-4)
        if scheduler is dpm:
            made._step_index = i
            torch.testing.assert_close(data, made.convert_model_output(output, sample=x), atol=1e-4, rtol=1e-4)
        else:
            made._step_index, made.is_scale_input_called = i, True
            stretched = x * (made.sigmas[i] ** 2 + 1) ** 0.5
            theirs = made.step(output, made.timesteps[i], stretched).pred_original_sample
            torch.testing.assert_close(data, theirs, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_the_probability_flow() -> None:
    """Of pure signal x = alpha x0 + sigma e with x0 and e fixed, by finite differences over training timesteps."""
    made = dpm()
    made.set_timesteps(1000)
    solver: Any = preserving(made)
    x0, noise = torch.randn(2, 50, generator=torch.manual_seed(0))

    def at(i: int) -> Tensor:
        alpha, sigma = solver.rates(i)
        return alpha * x0 + sigma * noise

    for i in (200, 500, 800):
        slope = (at(i - 1) - at(i + 1)) / (solver.time(i - 1) - solver.time(i + 1))
        torch.testing.assert_close(solver.gradient(i, at(i), x0), slope, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("criterion", ["paper", "ab2", "official"])
@pytest.mark.parametrize("make", [lambda: images.stable_diffusion(dpm()), videos.wan])
def test_other_criteria(criterion: str, make: Callable[[], Tiny]) -> None:
    tiny = make()
    attached = accelerate(tiny.pipe, "sada", criterion=criterion, max_run=2)
    if criterion == "official" and make is not videos.wan:
        with pytest.warns(UserWarning, match="official is for flows, not for DPMSolverMultistepScheduler"):
            tiny()
        assert attached.computed == list(range(STEPS))
        return
    assert tiny().finite()
    assert attached.computed[:3] == [0, 1, 2] and attached.computed[-2:] == [10, 11]


def test_the_late_regime_has_a_period() -> None:
    tiny = images.stable_diffusion(euler())
    attached = accelerate(tiny.pipe, "sada", threshold=1e-9, multistep_from=0.5, multistep_period=3)
    assert tiny().finite()
    assert attached.computed == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]


def test_a_batch_skips_what_all_its_samples_may() -> None:
    tiny = images.stable_diffusion(dpm(), samples=2)
    attached = accelerate(tiny.pipe, "sada", threshold=1e6)
    assert tiny().tensors[0].shape == (2, 4, 8, 8) and len(attached.computed) == 7


def test_repeated_timesteps_are_told_apart() -> None:
    """Heun evaluates twice at a timestep, over which nothing can be extrapolated."""
    tiny = images.stable_diffusion(diffusers.HeunDiscreteScheduler())
    attached = accelerate(tiny.pipe, "sada", threshold=1e6)
    found = tiny()
    assert found.finite() and attached.report().evaluations == 23 and len(attached.computed) < 15


def test_columns_are_not_to_be_had() -> None:
    tiny = videos.wan()
    with pytest.raises(ValueError, match="keep needs this project's networks"):
        accelerate(tiny.pipe, "sada", keep=0.5)
