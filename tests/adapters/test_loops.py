"""Loops that pipelines of others might have: whatever cannot be followed is computed."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from videoaccel.adapters.attach import Attachment
from videoaccel.generation.accelerate import accelerate
from videoaccel.session.slots import Slot

STEPS = 12


class Network(ModelMixin, ConfigMixin):
    """Something smooth in the latent and the time; counts its calls."""

    @register_to_config
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.proj = nn.Linear(4, 4)
        self.calls: list[str] = []

    def forward(self, x: Tensor, t: Any, mode: str = "read") -> Any:
        self.calls.append(mode)
        out = torch.tanh(self.proj(x)) * (1 + float(t) / 1000)
        return (out, SimpleNamespace(kv=x)) if mode == "extract" else (out,)


Loop = Callable[["Odd", Tensor], Tensor]


class Odd(DiffusionPipeline):
    """A loop that is handed in."""

    def __init__(self, transformer: Any, scheduler: Any, unconditional_transformer: Any = None) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, scheduler=scheduler, unconditional_transformer=unconditional_transformer
        )

    @torch.no_grad()
    def __call__(self, loop: Loop, steps: int = STEPS) -> Tensor:
        self.scheduler.set_timesteps(steps)
        return loop(self, torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)))


def odd(**parts: Any) -> Any:
    return Odd(**{"transformer": Network(), "scheduler": FlowMatchEulerDiscreteScheduler(), **parts})


def run(pipe: Any, loop: Loop, method: str = "fixed_linear", **fields: Any) -> tuple[Tensor, Tensor, Attachment]:
    """The plain latents, those with a method (``off`` is exact), and what was attached."""
    plain = pipe(loop)
    with accelerate(pipe, "off"):
        assert torch.equal(pipe(loop), plain)
    attached = accelerate(pipe, method, **fields)
    pipe.transformer.calls.clear()
    return plain, pipe(loop), attached


def plain_loop(pipe: Any, x: Tensor, *, times: Any = None) -> Tensor:
    for t in pipe.scheduler.timesteps if times is None else times:
        x = pipe.scheduler.step(pipe.transformer(x, t)[0], t, x).prev_sample
    return x


@pytest.mark.parametrize("order", [0, 1, 2])
def test_forecasts_are_those_of_our_own_networks(order: int) -> None:
    pipe = odd()
    _, found, attached = run(pipe, plain_loop, order=order)
    attached.remove()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    slot, x = Slot(1, order=order), torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            if i in attached.computed:
                slot.write(i, pipe.transformer(x, t)[0])
            x = scheduler.step(slot.read(i, order=order), t, x).prev_sample
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11]
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_a_call_that_writes_before_the_loop_is_not_part_of_it() -> None:
    def loop(pipe: Any, x: Tensor) -> Tensor:
        pipe.transformer(x, 0, mode="write")
        return plain_loop(pipe, x)

    pipe = odd()
    _, _, attached = run(pipe, loop)
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11] and pipe.transformer.calls == ["write"] + ["read"] * 7


def test_an_output_with_a_cache_in_it_is_never_forecast() -> None:
    def loop(pipe: Any, x: Tensor, always: bool = False) -> Tensor:
        for i, t in enumerate(pipe.scheduler.timesteps):
            mode = "extract" if always or i == 0 else "read"
            x = pipe.scheduler.step(pipe.transformer(x, t, mode=mode)[0], t, x).prev_sample
        return x

    pipe = odd()
    _, _, attached = run(pipe, loop)
    assert pipe.transformer.calls[0] == "extract" and attached.computed == [0, 1, 2, 3, 5, 7, 9, 11]
    with pytest.warns(UserWarning, match="the output holds more than tensors"):
        plain, found, _ = run(odd(), lambda pipe, x: loop(pipe, x, True))
    assert torch.equal(plain, found)


def test_a_second_pass_without_timesteps_set_anew_begins_anew() -> None:
    _, _, attached = run(odd(), lambda pipe, x: plain_loop(pipe, again(pipe, plain_loop(pipe, x))))
    second = [STEPS + i for i in (0, 1, 3, 5, 7, 9, 11)]
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11, *second] and attached.report().segments == 2
    assert "; 2 segments" in str(attached.report())


def again(pipe: Any, x: Tensor) -> Tensor:
    pipe.scheduler._step_index = None
    return x


def test_going_back_begins_anew() -> None:
    def loop(pipe: Any, x: Tensor) -> Tensor:
        times = pipe.scheduler.timesteps
        x = again(pipe, plain_loop(pipe, x, times=times[:6]))
        return plain_loop(pipe, x, times=times[3:])

    _, _, attached = run(odd(), loop)
    assert attached.report().segments == 2
    assert attached.computed == [0, 1, 3, 5, *(6 + i for i in (0, 1, 3, 5, 7))], "seen in the call's own timestep"

    def hidden(pipe: Any, x: Tensor) -> Tensor:
        times = pipe.scheduler.timesteps
        for k in (*range(6), *range(3, 12)):
            pipe.scheduler._step_index = None
            x = pipe.scheduler.step(pipe.transformer(x, float(times[k]))[0], times[k], x).prev_sample
        return x

    _, _, attached = run(odd(), hidden)
    assert attached.report().segments == 2
    assert attached.computed == [0, 1, 3, 5, 7, 8, 9, 11, 13], "seen in the step: its evaluation had been forecast"


def test_windows_whose_number_changes() -> None:
    def loop(pipe: Any, x: Tensor) -> Tensor:
        for i, t in enumerate(pipe.scheduler.timesteps):
            windows = [pipe.transformer(x, t)[0] for _ in range(2 if i < 6 else 3)]
            x = pipe.scheduler.step(torch.stack(windows).mean(0), t, x).prev_sample
        return x

    pipe = odd()
    _, _, attached = run(pipe, loop)
    rows = attached.report().streams
    assert [row.computed + row.forecast for row in rows] == [12, 12, 6] and rows[2].ordinal == 2
    assert rows[2].computed >= 2 and rows[2].forecast >= 1


def test_networks_of_one_evaluation_are_decided_about_together() -> None:
    def loop(pipe: Any, x: Tensor) -> Tensor:
        for t in pipe.scheduler.timesteps:
            cond, uncond = pipe.transformer(x, t)[0], pipe.unconditional_transformer(x, t)[0]
            x = pipe.scheduler.step(uncond + 3 * (cond - uncond), t, x).prev_sample
        return x

    pipe = odd(unconditional_transformer=Network(1))
    _, _, attached = run(pipe, loop)
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11]
    assert len(pipe.transformer.calls) == 7 and len(pipe.unconditional_transformer.calls) == 12 + 12 + 7


def test_an_output_may_be_written_over() -> None:
    def loop(pipe: Any, x: Tensor, careful: bool) -> Tensor:
        for t in pipe.scheduler.timesteps:
            (out,) = pipe.transformer(x, t)
            x = pipe.scheduler.step(out.clone() if careful else out, t, x).prev_sample
            if not careful:
                out.mul_(math.nan)
        return x

    for method in ("fixed_linear", "fora"):
        found = [
            run(odd(), lambda pipe, x, careful=careful: loop(pipe, x, careful), method)[1] for careful in (True, False)
        ]
        assert torch.equal(*found)


def test_times_may_be_plain_numbers() -> None:
    def loop(pipe: Any, x: Tensor) -> Tensor:
        for t in pipe.scheduler.timesteps.tolist():
            value = pipe.transformer(x, t)[0]
            x = pipe.scheduler.step(
                value, pipe.scheduler.timesteps[pipe.scheduler.timesteps.tolist().index(t)].clone(), x
            )[0]
        return x

    _, _, attached = run(odd(), loop)
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11]


def test_a_forecast_that_is_not_finite_is_computed() -> None:
    class Spiky(Network):
        def forward(self, x: Tensor, t: Any, mode: str = "read") -> Any:
            (out,) = super().forward(x, t, mode)
            return (out.half() * (6e4 if len(self.calls) % 13 == 2 else 1e-3),)

    def loop(pipe: Any, x: Tensor) -> Tensor:
        for t in pipe.scheduler.timesteps:
            value = pipe.transformer(x, t)[0].float().clamp(-1, 1)
            x = pipe.scheduler.step(value, t, x).prev_sample
        return x

    pipe = odd(transformer=Spiky())
    pipe.transformer.calls.clear()
    attached = accelerate(pipe, "fixed_linear", period=4)
    assert pipe(loop).isfinite().all()
    assert attached.report().reasons.get("the forecast was not finite") == 1


def test_no_timesteps_no_forecasts() -> None:
    pipe = odd()

    def loop(pipe: Any, x: Tensor) -> Tensor:
        for t in (900, 600, 300, 100, 50, 40, 30, 20, 10):
            x = x - 0.1 * pipe.transformer(x, t)[0]
        return x

    plain = pipe(loop)
    accelerate(pipe, "fixed_linear")
    with pytest.warns(UserWarning, match="computed all of Odd"):
        assert torch.equal(pipe(loop), plain), "without steps there is one evaluation"


class Wide(Network):
    """Predicts a variance, too."""

    @register_to_config
    def __init__(self, in_channels: int = 3, out_channels: int = 6) -> None:
        super().__init__()

    def forward(self, x: Tensor, t: Any, mode: str = "read") -> Any:
        (out,) = super().forward(x, t, mode)
        return (torch.cat([out, out.cos()], dim=1),)


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_a_variance_that_the_scheduler_uses_is_held(variance: str) -> None:
    seen: list[Tensor] = []

    def loop(pipe: Any, x: Tensor) -> Tensor:
        seen.clear()
        for t in pipe.scheduler.timesteps:
            (out,) = pipe.transformer(x, t)
            seen.append(out)
            value = out if variance == "learned_range" else out[:, :3]
            x = pipe.scheduler.step(value, t, x, generator=torch.Generator().manual_seed(int(t))).prev_sample
        return x

    pipe = odd(transformer=Wide(), scheduler=DDPMScheduler(variance_type=variance))
    _, _, attached = run(pipe, loop)
    assert attached.computed == [0, 1, 3, 5, 7, 9, 11]
    before, last, made = seen[5], seen[7], seen[8]
    torch.testing.assert_close(made[:, :3], 1.5 * last[:, :3] - 0.5 * before[:, :3])
    assert torch.equal(made[:, 3:], last[:, 3:]) == (variance == "learned_range")
