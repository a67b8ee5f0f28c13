"""ControlNets beside the denoiser rest where that does."""

from pathlib import Path
from typing import Any

import pytest

from tests.adapters import image_pipes as images
from tests.adapters import picture_pipes as pictures
from tests.adapters.tiny import Tiny
from videoaccel.adapters import sides
from videoaccel.adapters.attach import attach
from videoaccel.adapters.planned import OutputPlan, planned
from videoaccel.adapters.rule import Evaluation, Serve, StepRule
from videoaccel.adapters.sides import STALE
from videoaccel.adapters.swap import listeners_of
from videoaccel.generation.accelerate import accelerate

PIPES = {
    "stable diffusion": images.control_net,
    "guessing": pictures.control_net_guessing,
    "flux": pictures.flux_control_net,
    "sd3": pictures.sd3_control_net,
}


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def denoiser(tiny: Tiny) -> str:
    return "unet" if hasattr(tiny.pipe, "unet") else "transformer"


@pytest.mark.parametrize("name", PIPES)
def test_it_runs_where_the_denoiser_does(name: str) -> None:
    tiny = PIPES[name]()
    plain = tiny()
    assert tiny.calls == {"controlnet": 12, denoiser(tiny): 12}
    with accelerate(tiny.pipe, "off") as off:
        assert tiny().equals(plain) and tiny.calls == {"controlnet": 12, denoiser(tiny): 12}
        assert off.report().calls == 24
    others: tuple[tuple[str, dict[str, Any]], ...] = (
        (("fora", {"period": 3, "residual": "output"}), ("taylorseer", {})) if name == "flux" else ()
    )
    for method, fields in (("fixed_linear", {}), *others):
        with accelerate(tiny.pipe, method, **fields) as fast:
            found, ran = tiny(), len(fast.computed)
            entered = 12 + 1 if fast.report().residual == "body" else ran  # around its blocks, and once to try that out
            assert ran < 12 and tiny.calls == {"controlnet": ran, denoiser(tiny): entered}
            rows = {row.component: (row.computed, row.forecast) for row in fast.report().streams}
            assert rows == {"controlnet": (ran, 12 - ran), denoiser(tiny): (ran, 12 - ran)}
            assert found.finite() and found.same_draws(plain) and not fast.report().reasons
    assert tiny().equals(plain) and not listeners_of(tiny.pipe.controlnet)


def test_forecasts_are_those_of_a_loop_in_which_it_always_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs are looked at only where the denoiser is."""
    tiny = images.control_net()
    with accelerate(tiny.pipe, "fixed_linear"):
        found = tiny()
        assert tiny.calls == {"controlnet": 7, "unet": 7}
    monkeypatch.setattr(sides, "NETWORKS", ())
    with accelerate(tiny.pipe, "fixed_linear"):
        assert tiny().equals(found) and tiny.calls == {"controlnet": 12, "unet": 7}


@pytest.mark.filterwarnings("ignore:there is no prior")
def test_a_plan_for_a_target_counts_both() -> None:
    tiny = images.control_net()
    with accelerate(tiny.pipe, "soda", speedup=2.0, calibrate=1) as fast:
        tiny()
        tiny()
        assert len(fast.computed) == 6 and tiny.calls == {"controlnet": 6, "unet": 6}


def test_a_call_that_was_answered_is_made_up_for_where_the_denoiser_is_computed_after_all() -> None:
    """A forecast that cannot be used costs both networks, and is as exact as if it had not been tried."""

    class Never(StepRule):
        keeps = least = 1

        def decide(self, now: Evaluation) -> Serve | None:
            return Serve(weights={99: 1.0}) if now.i % 2 else None

    for name, known in (("flux", True), ("guessing", False)):
        tiny = PIPES[name]()
        plain = tiny()
        with attach(tiny.pipe, Never, method="fora") as attached, pytest.warns(UserWarning, match="computed all"):
            found = tiny()
            assert tiny.calls == {"controlnet": 12, denoiser(tiny): 12}
            reasons = attached.report().reasons
        if known:
            assert found.equals(plain) and set(reasons) == {"an output that the plan builds on is not there"}
        else:  # zeros are put before its outputs, so that they cannot be known again
            assert reasons[STALE] == 6 and found.away_from(plain) < 0.1


def test_with_early_exits_it_always_runs() -> None:
    tiny = pictures.flux_control_net()
    with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
        tiny()
        assert tiny.calls == {"controlnet": 12, "transformer": 1} and fast.report().calls_left == 11


def test_one_that_replaces_it_is_attached_to() -> None:
    tiny = images.control_net()
    old = tiny.pipe.controlnet
    with accelerate(tiny.pipe, "fixed_linear") as fast:
        tiny()
        tiny.pipe.controlnet = type(old).from_config(old.config).eval()
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        tiny.pipe.controlnet.register_forward_hook(counted)
        tiny()
        assert count == len(fast.computed) == 7 and not listeners_of(old)


def test_a_plan_that_reaches_back_is_followed() -> None:
    tiny = images.control_net()
    plan = OutputPlan.of({"unet": [0, 1, 6]}, {"unet": 12})
    with attach(tiny.pipe, planned(plan), method="soda"):
        tiny()
    assert tiny.calls == {"unet": 3, "controlnet": 3}
