"""Acceleration from settings and from Python: named, recorded, made again, refused."""

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import videoaccel
from tests.workshop import Workshop
from videoaccel.calibration.probing import average, measure
from videoaccel.calibration.replay import dense_path, step_influence
from videoaccel.common.stages import StageClock
from videoaccel.generation.maker import Maker
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising
from videoaccel.jobs.resolve import resolve
from videoaccel.planning.prior import Prior
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

STEPS = 8


@pytest.fixture(scope="module")
def pipe(pipeline_folder: Path) -> VideoPipeline:
    made = VideoPipeline.from_pretrained(pipeline_folder)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def prior(pipe: VideoPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated on one clip of the tiny model."""

    with torch.inference_mode():
        request = pipe.request("a red circle", num_inference_steps=STEPS, seed=7, policy=make_policy("soda"))
        denoising = pipe._maker(request, StageClock()).denoising(request.references)
        tables = measure(denoising, ["soda"])
        tables["influence.step"] = step_influence(denoising, dense_path(denoising))
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    average([tables], denoising.setting, {}).save(path)
    return path


def latents(pipe: VideoPipeline, **options: Any) -> torch.Tensor:
    out = pipe("a red circle", num_inference_steps=STEPS, output_type="latent", **options).frames
    assert isinstance(out, torch.Tensor)
    return out


def test_accelerating_a_pipeline_and_turning_it_off(pipe: VideoPipeline, prior: Path) -> None:
    exact = latents(pipe)
    fast = latents(pipe.accelerate("soda", speedup=2.0, prior=prior))
    assert not torch.equal(fast, exact) and (fast - exact).abs().mean() < 0.5 * exact.abs().mean()
    assert torch.equal(latents(pipe.accelerate("off")), exact)
    assert torch.equal(latents(pipe.accelerate(None)), exact)


def test_a_prior_of_another_setting_is_refused(pipe: VideoPipeline, prior: Path) -> None:
    pipe.accelerate("soda", speedup=2.0, prior=prior)
    try:
        with pytest.raises(ValueError, match=r"made for guidance 4.0, here 5.0; calibrate for this setting"):
            latents(pipe, guidance_scale=5.0)
        with pytest.warns(UserWarning, match="interpolated: it was made for guidance 4.0, here 5.0"):
            foreign = latents(pipe, guidance_scale=5.0, foreign_prior=True)
        assert torch.isfinite(foreign).all()
    finally:
        pipe.accelerate(None)


def test_a_prior_on_the_shelf_is_found(
    pipe: VideoPipeline, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pipe.accelerate("soda", flops_ratio=2.0)
    try:
        with pytest.raises(ValueError, match="videoaccel calibrate measures it"):
            latents(pipe)
        shelf = tmp_path / "videoaccel" / "priors"
        shelf.mkdir(parents=True)
        Prior.load(prior).save(shelf / "tiny.safetensors")
        assert torch.isfinite(latents(pipe)).all()
        nearest = r"the nearest prior was made for guidance 4.0, here 5.0: `allow_foreign_prior` interpolates it"
        with pytest.raises(ValueError, match=nearest):
            latents(pipe, guidance_scale=5.0)
        with pytest.warns(UserWarning, match="interpolated: it was made for guidance 4.0, here 5.0"):
            assert torch.isfinite(latents(pipe, guidance_scale=5.0, foreign_prior=True)).all()
    finally:
        pipe.accelerate(None)


def test_the_sidecar_says_what_was_done_and_makes_it_again(make: Workshop, prior: Path) -> None:
    make(steps=STEPS, speedup=2.0, prior=str(prior), accel_options={"order": 2})
    record = make.record()["acceleration"]
    assert record["method"] == "soda" and record["fields"]["speedup"] == 2.0
    (loop,) = record["loops"]
    assert loop["steps"] == STEPS and loop["network_calls"] == STEPS / 2
    assert loop["actions"] == {"compute": STEPS // 2, "forecast2": STEPS // 2} and len(loop["decisions"]) == 16
    assert make.again("out.json", "again.mp4") == (make.folder / "out.mp4").read_bytes()
    make("plain.mp4", steps=STEPS)
    assert make.record("plain.json")["acceleration"] is None
    assert (make.folder / "plain.mp4").read_bytes() != (make.folder / "out.mp4").read_bytes()
    make("off.mp4", steps=STEPS, accel="off")
    assert (make.folder / "off.mp4").read_bytes() == (make.folder / "plain.mp4").read_bytes()


def test_a_yaml_file_names_method_and_fields(make: Workshop) -> None:
    path = make.folder / "mine.yaml"
    path.write_text("method: fora\nperiod: 4\nwarmup: 1\n")
    policy = resolve(make.settings(accel=str(path), accel_options={"warmup": 2})).policy
    assert policy == make_policy("fora", period=4, warmup=2)
    path.write_text("period: 4\n")
    with pytest.raises(ValueError, match="must say its method, one of"):
        resolve(make.settings(accel=str(path)))


def test_python_takes_what_the_command_line_takes(pipe: VideoPipeline) -> None:
    videoaccel.accelerate(pipe, "soda-sites", speedup=1.5)
    assert pipe.policy is not None and pipe.policy.name == "soda"
    found = pipe.policy.model_dump()
    assert (found["schedule"], found["speedup"], found["flops_ratio"]) == ("sites", 1.5, None)
    with pytest.raises(ValueError, match=r"policy takes a method such as make_policy\('fora', period=3\), got 'fora'"):
        pipe.request("a red circle", policy="fora")  # type: ignore[arg-type]
    pipe.accelerate(None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accel": "sodda"}, "unknown method 'sodda'; did you mean 'soda'"),
        ({"accel": "SODA"}, "unknown method 'SODA'; did you mean 'soda'"),
        ({"accel": "fora", "accel_options": {"periods": 3}}, "fora has no field 'periods'; it has period, warmup"),
        ({"accel": "fora", "accel_options": {"period": 0}}, "fora: period: .* got 0"),
        ({"accel": "fora", "speedup": 2}, "`speedup` is a target of elastic and soda; fora takes none: set its period"),
        ({"accel_options": {"period": 3}}, "`accel_options` change nothing without `accel` or `speedup`"),
        ({"accel": "fora", "prior": "x.safetensors"}, "fora uses no prior"),
        ({"speedup": 0.5}, "speedup"),
    ],
)
def test_refusals(make: Workshop, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(make.settings(**values))


def test_fewer_steps_runs_fewer_steps(make: Workshop) -> None:
    make(steps=STEPS, accel="fewer_steps", accel_options={"share": 0.5})
    assert make.record()["acceleration"]["loops"][0]["steps"] == STEPS // 2


def test_the_function_does_what_the_method_does(pipe: VideoPipeline) -> None:
    assert videoaccel.accelerate(pipe, "fora", period=4) is pipe
    by_function = latents(pipe)
    assert torch.equal(latents(pipe.accelerate("fora", period=4)), by_function)
    videoaccel.accelerate(pipe, None)
    assert pipe.policy is None


@pytest.mark.parametrize(
    ("method", "options"),
    [("sada", {"threshold": 9.0}), ("delta_dit", {"share": 0.5}), ("elastic", {"decisions": "static"})],
)
def test_a_clip_of_a_method_is_made_again_from_its_sidecar(
    make: Workshop, method: str, options: dict[str, Any]
) -> None:
    make(steps=STEPS, accel=method, accel_options=options)
    record = make.record()["acceleration"]
    assert record["method"] == method and options.items() <= record["fields"].items()
    assert len(record["loops"][0]["actions"]) > 1, "something was not computed"
    assert make.again("out.json", "again.mp4") == (make.folder / "out.mp4").read_bytes()


def test_nothing_is_changed_by_a_refused_acceleration(pipe: VideoPipeline) -> None:
    pipe.accelerate("fora", period=4)
    policy = pipe.policy
    with pytest.raises(ValueError, match="`anchors` is a target of soda; fora takes none: set its period"):
        videoaccel.accelerate(pipe, "fora", anchors=4)
    with pytest.raises(ValueError, match="without a method there is nothing"):
        videoaccel.accelerate(pipe, None, period=4)
    with pytest.raises(FileNotFoundError, match=r"there is no prior .*none\.safetensors"):
        videoaccel.accelerate(pipe, "soda", prior="none.safetensors")
    assert pipe.policy is policy
    pipe.accelerate(None)
    with pytest.raises(ValueError, match="exact is a model as it is"):
        videoaccel.accelerate(pipe, "exact")
    with pytest.raises(ValueError, match="object takes no acceleration; give a loaded VideoPipeline"):
        videoaccel.accelerate(object(), "fora")  # type: ignore[type-var]


def test_a_target_out_of_reach_is_told_at_once_where_a_prior_is_there() -> None:
    """Of the pipeline's own steps; the call would say it after its text was encoded."""
    pipe = VideoPipeline.from_pretrained("demo", text_encoder=None, tokenizer=None)
    with pytest.warns(UserWarning, match=r"with the pipeline's own 30 steps: 50 times faster cannot be reached"):
        pipe.accelerate("soda", speedup=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.accelerate("soda", speedup=2)
        pipe.accelerate("fora", period=3)


def test_a_size_that_is_cut_is_said(pipe: VideoPipeline) -> None:
    factor = pipe.vae.space_factor
    with pytest.warns(
        UserWarning, match=rf"multiples of {factor} pixels: the clip will be 32x32, not {32 + factor - 1}x32"
    ):
        pipe.request("a red circle", height=32 + factor - 1, width=32)


@pytest.mark.parametrize("method", ["fora", "toca", "sada+fora"])
def test_nothing_holds_a_session_when_its_generation_is_over(
    pipe: VideoPipeline, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[weakref.ref[Session]] = []
    made = Maker._session

    def noted(maker: Maker, denoising: Denoising) -> Session:
        sessions.append(weakref.ref(session := made(maker, denoising)))
        return session

    monkeypatch.setattr(Maker, "_session", noted)
    gc.collect()
    gc.disable()
    try:
        latents(pipe.accelerate(method))
        assert len(sessions) == 1 and sessions[0]() is None
        # Of several loops none holds what it stored while the next one runs, and all can be told of.
        told: list[Session] = []
        for _ in pipe.stream(pipe.request("a red circle", num_inference_steps=STEPS, loops=2), sessions=told):
            assert [session() for session in sessions] == [None] * len(sessions)
        assert len(told) == 2 and len(sessions) == 3
        assert all(len(one.trace) == len(one.shares) == one.job.steps and one.counts() and one.digest() for one in told)
    finally:
        gc.enable()
        pipe.accelerate(None)
