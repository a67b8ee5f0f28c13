"""Methods that plan from measured errors, on pipelines that are not ours."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.demo_pipe import OutsidePipeline, both_doors, native
from videoaccel import Prior, VideoPipeline, accelerate, calibrate, make_policy, plan
from videoaccel.adapters import call_setting
from videoaccel.adapters.attach import attach
from videoaccel.adapters.guidance_fit import fit
from videoaccel.adapters.meter import Meter
from videoaccel.adapters.methods import soda
from videoaccel.adapters.pipeline_priors import find
from videoaccel.adapters.rule import StepRule
from videoaccel.adapters.swap import listeners_of
from videoaccel.calibration.outside_curve import pixels, psnr
from videoaccel.models import fingerprint
from videoaccel.planning.fitted import PLAIN
from videoaccel.planning.prior import setting_of
from videoaccel.policies._soda_errors import ErrorProbe


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "videoaccel" / "priors"


@pytest.fixture(scope="module")
def doors() -> tuple[VideoPipeline, OutsidePipeline]:
    return both_doors()


@pytest.fixture
def quiet() -> Iterator[None]:
    with pytest.warns(UserWarning, match="computed whole and measured"):
        yield


def measured(tiny: Any, **options: Any) -> Any:
    """What a generation tells."""
    segments: list[Any] = []
    meter = Meter(segments.extend)
    meter.on = True
    with attach(tiny.pipe, StepRule, method="off", observers=[meter]):
        tiny(**options)
    (segment,) = segments
    return segment


def test_both_doors_measure_plan_and_make_the_same(doors: tuple[VideoPipeline, OutsidePipeline]) -> None:
    own, outside = doors
    prior = calibrate(outside, calls=[{"seed": 5}, {"seed": 6}], curve=0)
    probes = []
    for seed in (5, 6):
        with torch.inference_mode():
            run = own.denoising(own.request("a red circle moves left on a dark blue background", seed=seed,
                                            num_inference_steps=12, guidance_scale=4.0, height=32, width=32,
                                            num_frames=5))  # fmt: skip
            probe = ErrorProbe(run.job(), sites=frozenset())
            run.denoise(probe)
        probes.append(probe.tables()["soda.velocity"].mean(0))
    table = torch.stack(probes).mean(0)
    assert torch.equal(prior.tables["soda.velocity"], table)

    setting = setting_of(own.transformer, own.scheduler, steps=12, size=(32, 32), frames=5, guidance=4.0)
    inside = Prior(setting, {"soda.velocity": table}, {"soda.velocity": 2})
    policy = make_policy("soda", speedup=2.0)
    with accelerate(outside, "soda", speedup=2.0, prior=prior) as fast:
        clip = outside(seed=0)
        plan = policy.network(inside.tables, 12)  # type: ignore[attr-defined]
        assert fast.computed == [
            i for i, step in enumerate(plan.steps) if not hasattr(next(iter(step.values())), "order")
        ]
    same = native(own, num_inference_steps=12, guidance_scale=4.0, seed=0, policy=policy, prior=inside)
    assert len(fast.computed) == 6 and torch.allclose(clip, same, atol=1e-5)


def test_without_a_prior_the_first_generations_are_exact_and_measured(
    doors: tuple[VideoPipeline, OutsidePipeline], shelf: Path
) -> None:
    _, outside = doors
    exact = outside(seed=1)
    with accelerate(outside, "soda", speedup=2.0, calibrate=2) as fast:
        with pytest.warns(UserWarning, match=r"next 2 generations are computed whole and measured"):
            first = outside(seed=1)
        assert torch.equal(first, exact) and fast.computed == list(range(12))
        assert "computed whole and measured, 1 of 2" in str(fast.report())
        outside(seed=2)
        outside(seed=1)
        assert len(fast.computed) == 6 and "planned from 2 measured generations" in str(fast.report())
        outside(seed=1, num_inference_steps=20)  # the curves are over the noise level
        assert len(fast.computed) == 10 and not fast.report().reasons
    assert len(list(shelf.glob("pipeline-*.safetensors"))) == 1
    with accelerate(outside, "soda", speedup=3.0) as fast:  # found for next time
        outside(seed=1)
        assert len(fast.computed) == 4
    with (
        accelerate(outside, "soda", speedup=2.0, calibrate=False),
        pytest.raises(ValueError, match=r"guidance_scale 4\.0, here 3\.0"),
    ):
        outside(seed=1, guidance_scale=3.0)
    with accelerate(outside, "soda", speedup=2.0, calibrate=False, foreign_prior=True) as fast:
        outside(seed=1, guidance_scale=3.0)
        assert len(fast.computed) == 6


def test_a_plan_stays_within_each_of_two_networks(quiet: None) -> None:
    tiny = videos.wan_two()
    with accelerate(tiny.pipe, "soda", speedup=1.6, calibrate=1) as fast:
        tiny(steps=16)
        tiny(steps=16)
        report = fast.report()
        assert report.evaluations == 16 and len(fast.computed) == 10 and not report.reasons
        first_of_second = next(i for i in range(16) if i not in range(_evaluations(report, "transformer")))
        assert {0, first_of_second} <= set(fast.computed)
        tiny(steps=24)
        assert fast.report().evaluations == 24 and len(fast.computed) <= 16


def _evaluations(report: Any, component: str) -> int:
    streams = [one for one in report.streams if one.component == component]
    return max(one.computed + one.forecast for one in streams)


@pytest.mark.parametrize(
    ("method", "fields", "computed"),
    [("lemica", {"budget": 7}, 7), ("lemica", {}, 5), ("magcache", {"threshold": 10.0, "max_skips": 1}, 7)],
)
def test_others_plan_too(method: str, fields: dict[str, Any], computed: int, quiet: None) -> None:
    tiny = images.flux()
    with accelerate(tiny.pipe, method, calibrate=1, **fields) as fast:
        tiny()
        assert tiny().finite()
        assert len(fast.computed) == computed and fast.report().evaluations == 12


def test_fewer_steps_asks_for_fewer() -> None:
    tiny = images.flux()
    with accelerate(tiny.pipe, "fewer_steps", share=0.5) as fast:
        found = tiny(steps=12)
        assert fast.computed == list(range(6)) and "6 steps of 12" in str(fast.report())
    assert found.equals(tiny(steps=6))
    dit = images.dit()
    with accelerate(dit.pipe, "fewer_steps", share=0.5) as fast, pytest.raises(ValueError, match="sigmas names"):
        tiny.pipe.__class__  # noqa: B018
        with accelerate(tiny.pipe, "fewer_steps"):
            tiny(sigmas=[1.0, 0.5])


def test_a_speedup_of_all_counts_what_is_beside_the_network(
    doors: tuple[VideoPipeline, OutsidePipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, outside = doors
    prior = calibrate(outside, calls=[{"seed": 5}], curve=0)
    known = Prior(prior.setting, prior.tables, prior.samples, {**prior.info, "share": 0.8})
    with accelerate(outside, "soda", speedup=2.0, prior=known, of="all") as fast:
        outside(seed=1)
        assert len(fast.computed) == math.floor(12 * (1 / 2 - 0.2) / 0.8)
    limits = {
        9.0: "9 times the whole speed cannot be reached: the networks take 80% of the time, so 5.00 is the limit",
        4.0: "4 times the whole speed cannot be reached: the networks take 80% of the time and can be 6.00 times "
        "faster, so 3.00 is the limit",
    }
    for target, reason in limits.items():
        with accelerate(outside, "soda", speedup=target, prior=known, of="all") as fast:
            with pytest.warns(UserWarning, match=reason):
                outside(seed=1)
            assert len(fast.computed) == 12 and reason in fast.report().summary, "it fails open"


def test_quality_can_be_asked_for_where_it_was_measured(doors: tuple[VideoPipeline, OutsidePipeline]) -> None:
    _, outside = doors
    prior = calibrate(outside, calls=[{"seed": 5}, {"seed": 6}], curve=1)
    curve = prior.tables["soda.psnr"]
    known = torch.isfinite(curve)
    assert known.sum() >= 4 and curve[known][-1] > curve[known][0] + 3
    target = float(curve[known][-2])
    with accelerate(outside, "soda", min_psnr=target, prior=prior) as fast:
        outside(seed=5)
    assert len(fast.computed) == int(known.nonzero()[-2]) + 1


GUIDANCE = {
    "flux, true guidance": (images.flux_true_guidance, (3.0, -2.0)),
    "sd3": (images.stable_diffusion_3, (-6.0, 7.0)),
    "ltx": (videos.ltx, (-2.0, 3.0)),
    "z-image": (images.z_image, (-4.0, 3.0)),
    "hunyuan": (videos.hunyuan, (1.0,)),
}


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance_is_found_without_reading_it(name: str) -> None:
    make, _ = GUIDANCE[name]
    segment = measured(make())
    found = segment.fits[3]
    assert found is not None and found.holds and found.residual < 1e-5
    assert sum(found.weights) == pytest.approx(round(sum(found.weights)), abs=1e-3)


def test_a_fit_says_the_weights_and_when_terms_are_alike() -> None:
    one, two = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0))
    found = fit([one, two], 3 * one - 2 * two)
    assert found.weights == pytest.approx((3, -2)) and found.residual < 1e-6 and not found.alike
    assert fit([one, one], one).alike
    assert fit([one], two).residual > 0.5 and not fit([one], two).holds


def test_guidance_that_changes_is_measured_by_its_parts() -> None:
    """Layers are left out in some steps only: the number of terms differs, and the values themselves are taken."""
    segment = measured(images.stable_diffusion_3_skipping_layers())
    counts = {len(one.weights) for one in segment.fits}
    assert len(counts) == 2
    assert torch.isfinite(segment.tables()["soda.velocity"][5, 0, 0])


def test_another_model_is_all_that_is_said_of_a_prior() -> None:
    flux, wan = images.flux(), videos.wan()
    prior = calibrate(flux.pipe, calls=[{**flux.options, "num_inference_steps": 12}], curve=0)
    with accelerate(wan.pipe, "soda", speedup=2, prior=prior) as fast:
        with pytest.raises(ValueError, match=r"^the prior was measured for another model; calibrate this pipeline$"):
            wan()
        assert fast.report().evaluations == 0


def test_what_a_plan_foretells_is_done() -> None:
    tiny = images.flux()
    call = {**tiny.options, "num_inference_steps": 12}
    with pytest.raises(ValueError, match="there is no prior of this pipeline for this call"):
        plan(tiny.pipe, "soda", speedup=2, call=call)
    prior = calibrate(tiny.pipe, calls=[call], curve=0)
    tiny.calls.clear()
    foretold = plan(tiny.pipe, "soda", speedup=2, call=call, prior=prior)
    assert not listeners_of(tiny.pipe) and tiny.calls["transformer"] == 1, "the second evaluation is enough to be seen"
    assert foretold.speedup == 2 and foretold.prior == str(prior.path) and foretold.generations == 1
    with accelerate(tiny.pipe, "soda", speedup=2, prior=prior) as fast:
        tiny()
        assert fast.computed == foretold.computed
    assert plan(tiny.pipe, "fora", call=call).computed == [0, 1, 2, 4, 6, 8, 10]
    assert plan(tiny.pipe, "sada", call=call).evaluations == ()
    assert plan(tiny.pipe, "teacache", call=call, prior=prior).evaluations == ()
    for asked, message in (
        ({"method": "pab"}, "pab has to look into the network"),
        ({"method": "soda", "speedup": 2, "of": "it"}, "a speed-up is of denoiser or all, got of='it'"),
        ({"method": "fora", "call": "a cat"}, "call is the arguments of a call by name"),
        ({"method": None}, "a pipeline is planned for a method and a call"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(tiny.pipe, **{"call": call, **asked})


def test_a_plan_takes_the_prior_that_it_is_given(tmp_path: Path, shelf: Path) -> None:
    tiny = images.flux()
    call = {**tiny.options, "num_inference_steps": 12}
    prior = calibrate(tiny.pipe, calls=[call], out=tmp_path / "curve.safetensors", fit=0)
    assert not shelf.exists(), "no prior but this one"
    foretold = plan(tiny.pipe, "soda", min_psnr=5, call=call, prior=prior)
    with accelerate(tiny.pipe, "soda", min_psnr=5, prior=prior) as fast:
        tiny()
        assert fast.computed == foretold.computed != [*range(12)]
    told = foretold.instead
    assert told is not None and told.steps <= len(foretold.computed), "as many plain steps were made, too"
    with accelerate(tiny.pipe, "fewer_steps", share=told.steps / 12) as fast:
        few, kept = tiny(steps=12), len(fast.computed)
    made = [pixels(run.tensors[0]) for run in (few, tiny(steps=12))]
    assert kept == told.steps and told.psnr == pytest.approx(psnr(*made), abs=1), "of another seed"
    better = {**prior.tables, PLAIN: prior.tables[PLAIN] + 100}
    with accelerate(
        tiny.pipe, "soda", min_psnr=5, prior=Prior(prior.setting, better, prior.samples, prior.info)
    ) as fast:
        tiny()
        assert "more than this plan: here fewer steps are the better choice" in fast.report().summary
    known = Prior(prior.setting, prior.tables, prior.samples, {**prior.info, "share": 0.8})
    whole = plan(tiny.pipe, "soda", speedup=2.0, prior=known, of="all", call=call)
    assert len(whole.computed) == 4 and whole.fields["speedup"] == 2.0
    with pytest.raises(ValueError, match=r"4 times the whole speed cannot be reached.*so 3\.00 is the limit"):
        plan(tiny.pipe, "soda", speedup=4.0, prior=known, of="all", call=call)
    with pytest.raises(ValueError, match="fora uses no prior on a pipeline that is not ours"):
        plan(tiny.pipe, "fora", call=call, prior=prior)


def test_where_nothing_is_planned_the_reason_is_told(recwarn: pytest.WarningsRecorder) -> None:
    tiny = images.flux()
    for steps in (1, 4):
        with pytest.raises(ValueError, match=f"a generation of {steps} evaluations?; forecasts need 8"):
            plan(tiny.pipe, "fora", call={**tiny.options, "num_inference_steps": steps})
        assert tiny.calls.total() == 1, "which is known in the first call"
        tiny.calls.clear()
    few = images.stable_diffusion(diffusers.LCMScheduler())
    with pytest.raises(ValueError, match="everything is computed: LCMScheduler puts new noise over every prediction"):
        plan(few.pipe, "fora", call={**few.options, "num_inference_steps": 12})
    assert few.calls.total() == 2
    assert not [one for one in recwarn if "computed all" in str(one.message)]


def test_a_plan_that_nothing_came_of_is_not_spoken_of(quiet: None) -> None:
    tiny = images.flux()
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=1) as fast:
        tiny()
        tiny()
        assert fast.report().note == "planned from 1 measured generation"
        tiny(steps=6)
        tiny(steps=6)
        assert fast.report().note is None and len(fast.computed) == 6


def test_generations_that_are_never_forecast_are_not_measured(shelf: Path, quiet: None) -> None:
    def stop(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 8
        return values

    tiny = images.flux()
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=1) as fast:
        for options, reason in (
            ({"steps": 4}, "fewer than 8 evaluations"),
            ({"callback_on_step_end": stop}, "it was not seen from its first evaluation to its last"),
        ):
            with pytest.warns(UserWarning, match=f"soda on FluxPipeline: computed whole and not measured: {reason}"):
                tiny(**options)
            assert fast.report().note == f"computed whole and not measured: {reason}"
            assert not shelf.exists() and fast.report().note in repr(fast)
        tiny()
        assert fast.report().note == "computed whole and measured, 1 of 1; then it is planned" and len(
            [*shelf.iterdir()]
        )
        tiny()
        assert fast.report().note == "planned from 1 measured generation" and len(fast.computed) == 6


def test_where_every_prediction_is_noised_anew_nothing_is_measured(shelf: Path, quiet: None) -> None:
    few = images.stable_diffusion(diffusers.LCMScheduler())
    reason = "LCMScheduler puts new noise over every prediction"
    with accelerate(few.pipe, "soda", speedup=2, calibrate=1) as fast:
        few()
        assert fast.report().note == f"computed whole and not measured: {reason}" and not shelf.exists()
    with pytest.raises(ValueError, match=f"there is nothing to measure where everything is computed: {reason}"):
        calibrate(few.pipe, calls=[{**few.options, "num_inference_steps": 12}])


def test_calibrating_needs_calls_of_one_kind() -> None:
    tiny = images.flux()
    for calls in (["a cat"], "a cat", {"prompt": "a cat"}, 3, [{3: "a cat"}]):
        with pytest.raises(ValueError, match="calls is a list of arguments by name"):
            calibrate(tiny.pipe, calls=calls)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no call to measure"):
        calibrate(tiny.pipe, calls=[])
    with pytest.raises(ValueError, match=r"calls\[1\]: FluxPipeline takes no argument 'promt'; did you mean prompt"):
        calibrate(tiny.pipe, calls=[tiny.options, {"promt": "a cat"}])
    with pytest.raises(ValueError, match=r"calls\[0\]: FluxPipeline takes no argument 'promt'"):
        calibrate(tiny.pipe, [{"promt": "a cat"}])
    with pytest.raises(ValueError, match=r"call: FluxPipeline takes no argument 'promt'"):
        plan(tiny.pipe, "fora", call={"promt": "a cat"})
    assert not tiny.calls, "said before anything ran"
    with pytest.raises(ValueError, match="different kinds"):
        options = {**tiny.options, "num_inference_steps": 10}
        calibrate(tiny.pipe, calls=[options, {**options, "guidance_scale": 9.5}], curve=0)
    with pytest.raises(ValueError, match="measured at calls"):
        calibrate(tiny.pipe)


def test_a_network_is_looked_at_again_where_its_weights_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = images.flux()
    looks: list[Any] = []
    monkeypatch.setattr(fingerprint, "_hashed", lambda *sample: str(looks.append(sample) or len(looks)))
    known = call_setting.Identities()
    first = known.of(tiny.pipe)
    assert known.of(tiny.pipe) == first and len(looks) == 1
    compiled = torch.compile(tiny.pipe.transformer, backend="eager")
    tiny.pipe.register_modules(transformer=compiled)
    assert known.of(tiny.pipe) == first and len(looks) == 1
    with torch.no_grad():
        next(compiled.parameters()).data += 1  # as adapters are merged
    assert known.of(tiny.pipe) != first and len(looks) == 2


def test_weights_that_are_elsewhere_have_an_identity_too() -> None:
    network = images.flux_network().to("meta")
    known = call_setting.Fingerprints()
    assert call_setting._identity(network, known) == call_setting._identity(images.flux_network().to("meta"), known)


def test_a_plan_is_made_once(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    made: list[int] = []
    plain = soda.schedule
    monkeypatch.setattr(soda, "schedule", lambda policy, tables, n: made.append(n) or plain(policy, tables, n))
    tiny = images.flux()
    with accelerate(tiny.pipe, "soda", speedup=2.0, calibrate=1) as fast:
        for steps in (12, 12, 12, 16, 16, 12):
            tiny(steps=steps)
        assert made == [12, 16] and len(fast.computed) == 6


def test_a_plan_that_computes_all_keeps_nothing_from_where_it_is_made(quiet: None) -> None:
    tiny = images.flux()
    with accelerate(tiny.pipe, "soda", speedup=1.0, calibrate=1) as fast:
        plain = tiny()
        assert tiny().equals(plain) and len(fast.computed) == 12
        assert fast.report().stored_bytes == 64 * 4 * 4 // 4, "the output of the first evaluation"


def test_what_cannot_be_had_is_said_before_anything_runs(doors: tuple[VideoPipeline, OutsidePipeline]) -> None:
    _, outside = doors
    for quality in ("min_psnr", "min_worst_psnr"):
        with pytest.raises(ValueError, match=r"a quality is kept by a curve.*calibrate"):
            accelerate(outside, "soda", **{quality: 35})
    with pytest.raises(ValueError, match="denoiser or all, got of='al'"):
        accelerate(outside, "soda", speedup=2.0, of="al")
    with pytest.raises(ValueError, match="got 'x'"):
        accelerate(outside, "soda", speedup=2.0, calibrate="x")
    with pytest.raises(ValueError, match="PSNR is measured, and no LPIPS: give min_psnr, min_worst_psnr"):
        accelerate(outside, "soda", max_lpips=0.1)
    with pytest.raises(ValueError, match="generation of 3 evaluations cannot be forecast"):
        calibrate(outside, calls=[{"num_inference_steps": 3}], curve=0)


def test_a_further_prior_leaves_the_one_that_sidecars_name(
    doors: tuple[VideoPipeline, OutsidePipeline], shelf: Path
) -> None:
    _, outside = doors
    first = calibrate(outside, calls=[{"seed": 5}], curve=0)
    assert first.path is not None
    before = first.path.read_bytes()
    better = calibrate(outside, calls=[{"seed": 5}, {"seed": 6}], curve=0)
    assert first.path.read_bytes() == before and better.path != first.path
    found, _ = find(first.setting)
    assert found is not None and found.path == better.path and len(list(shelf.iterdir())) == 2
