"""SADA on pipelines of diffusers' own classes with tiny random networks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import videoaccel
from tests.adapters import pipes
from tests.adapters.pipes import Tiny, dpm, euler, flow
from videoaccel.adapters.attach import Attached
from videoaccel.adapters.solvers import solver_of

STEPS = 12

SYSTEMS: dict[str, tuple[Callable[[], Tiny], int, dict[str, Any]]] = {
    "stable diffusion 2, dpm": (lambda: pipes.stable_diffusion(dpm()), 1, {}),
    "stable diffusion 2, v, euler": (lambda: pipes.stable_diffusion(euler(prediction_type="v_prediction")), 1, {}),
    "sdxl, euler": (lambda: pipes.stable_diffusion_xl(euler()), 1, {}),
    "controlnet, dpm": (lambda: pipes.control(dpm()), 1, {}),
    "flux": (lambda: pipes.flux(flow()), 1, {}),
    "wan": (lambda: pipes.wan(flow()), 2, {}),
    "musicldm, dpm": (lambda: pipes.music_ldm(dpm()), 1, {"guidance_scale": 2.0}),
}
"""How to make it, calls a step, and what :func:`videoaccel.accelerate` must be told."""

systems = pytest.mark.parametrize("name", SYSTEMS)


@systems
def test_skips_and_comes_off_without_trace(name: str) -> None:
    make, calls, told = SYSTEMS[name]
    tiny = make()
    before = {key: value for key, value in vars(tiny.pipe).items() if isinstance(value, torch.nn.Module)}
    config = dict(tiny.pipe.config)
    exact = tiny()
    assert tiny.calls == calls * STEPS

    # Straight nearly everywhere, so all that windows, runs and reach allow is skipped.
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6, **told)
    assert isinstance(attached, Attached) and dict(tiny.pipe.config) == config
    tiny.calls = 0
    fast = tiny()
    assert attached.computed == [0, 1, 2, 5, 8, 10, 11]
    assert tiny.calls == calls * 7
    assert fast.shape == exact.shape and fast.isfinite().all() and not torch.equal(fast, exact)
    assert (fast - exact).abs().mean() < exact.abs().mean()
    other = tiny(seed=1)
    assert not torch.equal(other, fast)
    assert torch.equal(tiny(), fast), "nothing is left of the generation before"
    assert torch.equal(videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6, **told) and tiny(), fast), "once only"

    videoaccel.accelerate(tiny.pipe, "sada", threshold=1e-9, **told)
    assert torch.equal(tiny(), exact), "nothing skipped, nothing changed"
    videoaccel.accelerate(tiny.pipe, None)
    assert all(vars(tiny.pipe)[key] is value for key, value in before.items()) and dict(tiny.pipe.config) == config
    assert torch.equal(tiny(), exact)


def by_hand(tiny: Tiny, latents: Tensor, *, threshold: float, guidance: float) -> tuple[Tensor, list[int]]:
    """The posterior rule written out: latents and computed steps, with diffusers' scheduler."""
    scheduler, unet = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config), tiny.denoiser
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
    tiny = pipes.stable_diffusion(scheduler())
    latents = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(4))
    expected, computed = by_hand(tiny, latents, threshold=threshold, guidance=5.0)
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=threshold)
    found = tiny(latents=latents.clone(), guidance_scale=5.0)
    assert attached.computed == computed
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_flow_extrapolates_its_velocity() -> None:
    """Wan's two calls a step, against a loop with the network and Euler's formula."""
    tiny = pipes.wan(flow())
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6)
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.manual_seed(4))
    found = tiny(latents=latents.clone(), guidance_scale=3.0)
    scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    x, nodes = latents, []
    for i, t in enumerate(scheduler.timesteps):
        here, ahead = scheduler.sigmas[i : i + 2].tolist()
        if i in attached.computed:
            cond, uncond = (
                tiny.denoiser(x, t.expand(1), encoder_hidden_states=tiny.options[name]).sample
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
    solver = solver_of(made)
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
    solver: Any = solver_of(made)
    x0, noise = torch.randn(2, 50, generator=torch.manual_seed(0))

    def at(i: int) -> Tensor:
        alpha, sigma = solver.rates(i)
        return alpha * x0 + sigma * noise

    for i in (200, 500, 800):
        slope = (at(i - 1) - at(i + 1)) / (solver.time(i - 1) - solver.time(i + 1))
        torch.testing.assert_close(solver.gradient(i, at(i), x0), slope, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("criterion", ["paper", "ab2", "official"])
def test_other_criteria(criterion: str) -> None:
    for make in (pipes.stable_diffusion, pipes.wan):
        tiny = make(dpm() if make is pipes.stable_diffusion else flow())
        attached = videoaccel.accelerate(tiny.pipe, "sada", criterion=criterion, max_run=2)
        if criterion == "official" and make is pipes.stable_diffusion:
            with pytest.raises(ValueError, match="official is for flows, not for DPMSolverMultistepScheduler"):
                tiny()
            continue
        assert tiny().isfinite().all()
        assert attached.computed[:3] == [0, 1, 2] and attached.computed[-2:] == [10, 11]


def test_the_late_regime_has_a_period() -> None:
    tiny = pipes.stable_diffusion(euler())
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=1e-9, multistep_from=0.5, multistep_period=3)
    assert tiny().isfinite().all()
    assert attached.computed == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]


def test_a_batch_skips_what_all_its_samples_may() -> None:
    tiny = pipes.stable_diffusion(dpm(), samples=2)
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6)
    assert tiny().shape == (2, 4, 8, 8) and len(attached.computed) == 7


def test_a_network_that_is_told_its_guidance_scale_keeps_no_other() -> None:
    tiny: Any = pipes.flux(flow())
    videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6)
    with pytest.raises(ValueError, match="guidance scale cannot be read off FluxPipeline: pass guidance_scale="):
        tiny(**tiny.guided)
    attached = videoaccel.accelerate(tiny.pipe, "sada", threshold=1e6, guidance_scale=2.0)
    assert tiny(**tiny.guided).isfinite().all() and len(attached.computed) == 7


def test_a_denoiser_that_predicts_variances_is_refused() -> None:
    tiny = pipes.stable_diffusion(dpm())
    tiny.pipe.unet.register_to_config(out_channels=8)
    with pytest.raises(ValueError, match="unet of StableDiffusionPipeline predicts variances, too"):
        videoaccel.accelerate(tiny.pipe, "sada")


def test_it_looks_like_what_it_replaces() -> None:
    tiny = pipes.stable_diffusion(dpm())
    names = set(tiny.denoiser.state_dict())
    videoaccel.accelerate(tiny.pipe, "sada")
    unet = tiny.pipe.unet
    assert unet is not tiny.denoiser and isinstance(unet, type(tiny.denoiser))
    assert unet.config is tiny.denoiser.config and unet.dtype == torch.float32
    assert set(unet.state_dict()) == names == {name for name, _ in unet.named_parameters()}
    tiny.pipe.to(torch.float64)
    assert tiny.denoiser.dtype == torch.float64
    assert unet(torch.randn(1, 4, 8, 8).double(), 5, torch.randn(1, 5, 8).double()).sample.requires_grad, "trains"


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (lambda: pipes.music_ldm(dpm()), {}, "cannot be read off MusicLDMPipeline: pass guidance_scale="),
        (lambda: pipes.wan(flow()), {"keep": 0.5}, "keep needs this project's networks"),
        (lambda: pipes.wan(flow(stochastic_sampling=True)), {}, "samples stochastically"),
        (lambda: pipes.stable_diffusion(dpm(algorithm_type="sde-dpmsolver++")), {}, "deterministic solver"),
        (
            lambda: pipes.stable_diffusion(pipes.diffusers.DDIMScheduler()),
            {},
            "sada knows no DDIMScheduler; it knows F",
        ),
        (lambda: pipes.wan(flow()), {"prior": "x"}, "sada uses no prior"),
    ],
)
def test_refusals(make: Callable[[], Tiny], fields: dict[str, Any], message: str) -> None:
    tiny = make()
    with pytest.raises(ValueError, match=message):
        videoaccel.accelerate(tiny.pipe, "sada", **fields)
    assert getattr(tiny.pipe, "unet", None) is tiny.denoiser or tiny.pipe.transformer is tiny.denoiser


def test_other_methods_need_a_pipeline_of_ours() -> None:
    tiny = pipes.wan(flow())
    with pytest.raises(ValueError, match="fora is for VideoPipeline; of WanPipeline only sada can be told"):
        videoaccel.accelerate(tiny.pipe, "fora")
    videoaccel.accelerate(tiny.pipe, "sada")
    with pytest.raises(ValueError, match=r"sada with a start of 0.2 needs at least 6 steps, got 4"):
        tiny(steps=4)
