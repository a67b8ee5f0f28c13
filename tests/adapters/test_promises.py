"""What is promised is kept: PSNR on the clips that calibration saw, and what cannot be kept is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters import image_pipes as images
from tests.adapters.tiny import Tiny
from videoaccel import (
    GenerateSettings,
    Prior,
    accelerate,
    calibrate,
    choose_degrees,
    compare,
    compare_settings,
    explain,
    generate,
    make_policy,
    metric_class,
    train_router,
    verify,
)
from videoaccel.calibration.outside_curve import pixels, psnr
from videoaccel.planning.fitted import choices

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tiny(cache: Path) -> Tiny:
    return images.flux()


def call(tiny: Tiny, seed: int) -> dict[str, Any]:
    return {**tiny.options, "num_inference_steps": 12, "generator": torch.Generator().manual_seed(seed)}


@pytest.fixture(scope="module")
def prior(tiny: Tiny) -> Prior:
    return calibrate(tiny.pipe, [call(tiny, seed) for seed in SEEDS])


@pytest.fixture(scope="module")
def exact(tiny: Tiny) -> list[torch.Tensor]:
    return [pixels(tiny.pipe(**call(tiny, seed))) for seed in SEEDS]


@pytest.mark.parametrize("target", ["min_psnr", "min_worst_psnr"])
def test_a_quality_that_can_be_had_is_had(target: str, tiny: Tiny, prior: Prior, exact: list[torch.Tensor]) -> None:
    worst = target == "min_worst_psnr"
    offered = {one.calls: one.worst if worst else one.mean for one in choices(prior.tables)}
    assert len(offered) >= 4
    for calls, wanted in list(offered.items())[::2]:
        with accelerate(tiny.pipe, "soda", **{target: wanted - 1e-3}, prior=prior) as fast:
            kept = [psnr(pixels(tiny.pipe(**call(tiny, seed))), one) for seed, one in zip(SEEDS, exact, strict=True)]
            assert len(fast.computed) <= calls < 12 and not fast.report().reasons
        assert (min(kept) if worst else sum(kept) / len(kept)) >= wanted - 2e-3
    below = [value for calls, value in offered.items() if calls < len(fast.computed)]
    assert all(value < wanted - 1e-3 for value in below), "no plan of fewer calls kept it"


def test_a_quality_out_of_reach_computes_everything_and_says_so(
    tiny: Tiny, prior: Prior, exact: list[torch.Tensor]
) -> None:
    best = prior.tables["soda.fitted.quality"][:, :, 0].nan_to_num(-1).max()
    with accelerate(tiny.pipe, "soda", min_psnr=200, prior=prior) as fast:
        with pytest.warns(UserWarning, match="soda computed all of .*`min_psnr=200` is out of reach: the best plan"):
            assert torch.equal(pixels(tiny.pipe(**call(tiny, SEEDS[0]))), exact[0])
        assert f" kept {best:.4g} dB in calibration; a plain run keeps everything" in fast.report().summary


def test_a_speed_out_of_reach_is_said(tiny: Tiny, prior: Prior) -> None:
    with accelerate(tiny.pipe, "soda", speedup=50, prior=prior) as fast:
        with pytest.warns(UserWarning, match="50"):
            tiny.pipe(**call(tiny, 1))
        (reason,) = fast.report().reasons
        assert "50" in reason and reason in fast.report().summary and len(fast.computed) == 12


def test_every_stage_of_learning_is_a_line(tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "other"))
    notes = []
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=2) as fast:
        for seed in range(3):
            if seed:
                tiny.pipe(**call(tiny, seed))
            else:
                with pytest.warns(UserWarning, match="the next 2 generations are computed whole and measured, later"):
                    tiny.pipe(**call(tiny, seed))
            notes.append(str(fast.report().note))
            assert notes[-1] in repr(fast)
    assert notes[:2] == [f"computed whole and measured, {n} of 2; then it is planned" for n in (1, 2)]
    assert notes[2] == "planned from 2 measured generations"
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=2) as again:
        tiny.pipe(**call(tiny, 3))
        assert again.report().note == notes[2], "found in the user's cache"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda pipe: calibrate(pipe, [{}], curve="x"), "curve is a number of calls, 0 for none, got 'x'"),
        (lambda pipe: calibrate(pipe, [{}], curve=-1), "curve is a number of calls"),
        (lambda pipe: calibrate(pipe, [{}], fit=True), "fit is a number of calls, 0 for none, got True"),
        (lambda pipe: calibrate(pipe, [{}], fit=1), "steps cannot be fitted on 1 call: of 1 the first 1 say what is"),
        (lambda pipe: calibrate(pipe, [{}] * 8, fit=5), "on 5 calls: of 8 the first 4 say what is kept, so 4 are left"),
        (lambda pipe: calibrate(pipe, [{}] * 4, fit=2, curve=0), "fit=2 needs a curve"),
        (lambda pipe: calibrate(pipe, [{}], out=3), "out is the name of a file, got 3"),
        (lambda pipe: calibrate(pipe, [{}], out="."), "it is a folder; name a file in it"),
        (lambda pipe: accelerate(pipe, "fora", calibrate=3), "fora measures nothing first; leave calibrate=3 out"),
        (lambda pipe: accelerate(pipe, "soda", speedup=True), "speedup: true is for switches only"),
        (lambda pipe: make_policy(3), "a method is a name such as 'soda', got 3"),
        (
            lambda pipe: generate("a cat"),
            r"generate takes settings, such as videoaccel.GenerateSettings\(...\), got 'a c",
        ),
        (
            lambda pipe: train_router("demo"),
            r"train_router takes settings, such as videoaccel.RouterSettings\(...\), got",
        ),
        (lambda pipe: verify("demo", ranks=[2]), "verify takes settings, such as videoaccel.GenerateSettings"),
        (lambda pipe: verify(GenerateSettings(), ranks=2), r"ranks are numbers of at least 1, such as ranks=\[1, 2\]"),
        (lambda pipe: choose_degrees("x"), "`ranks` must be a whole number of at least 1, got 'x'"),
        (lambda pipe: choose_degrees(4, sequence=True), "`sp` must be a whole number of at least 1, got True"),
        (lambda pipe: explain("x", method="soda", steps=3), "explain takes the session of a run, .*got 'x'"),
        (lambda pipe: metric_class(3), "a metric is a name such as 'aesthetic_quality', got 3"),
        (lambda pipe: compare_settings("demo"), "compare_settings takes settings, such as videoaccel.GenerateSettings"),
        (lambda pipe: compare(pipe, ["a"], out="x", methods="fora"), "methods is a list, such as methods="),
        (lambda pipe: compare(pipe, ["a"], out="x", seeds=3), r"seeds is a list, such as seeds=\[0, 1\], got 3"),
        (lambda pipe: compare(pipe, ["a"], out="x", speedups=[True]), "speedups are numbers, got True"),
        (lambda pipe: compare(pipe, ["a"], out="x", repeats="x"), "repeats is a whole number, got 'x'"),
        (lambda pipe: compare(pipe, ["a"], out="x", values={"fora.period": 3}), "values are lists by field by method"),
        (lambda pipe: compare(pipe, ["a"], out="x", values={"fora": {"period": 3}}), "values are lists by field by"),
        (lambda pipe: compare(pipe, ["a"], out="x", prior=3), "a prior is a videoaccel.Prior or the name of its file"),
    ],
)
def test_what_is_of_another_kind_is_a_sentence(run: Any, message: str, tiny: Tiny) -> None:
    before = tiny.calls.total()
    with pytest.raises((ValueError, OSError), match=message):
        run(tiny.pipe)
    assert tiny.calls.total() == before
