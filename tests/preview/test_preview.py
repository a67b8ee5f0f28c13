"""Plans shown without being run: what is rehearsed is what runs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tiny_run import tiny_run
from tests.workshop import Workshop
from videoaccel import CalibrateSettings, GenerateSettings, calibrate
from videoaccel.calibration import replay
from videoaccel.calibration.probing import SiteInfluence, default_methods, measure, run_probe
from videoaccel.generation import cache_memory
from videoaccel.generation.rehearsal import depends_on_clip, rehearse
from videoaccel.models.seam import BODY, Site
from videoaccel.planning.picture import draw
from videoaccel.planning.plan_report import PlanReport, gathered
from videoaccel.planning.prior import Prior
from videoaccel.preview.preview import plan
from videoaccel.session.actions import COMPUTE, REUSE, SKIP, Combine, Forecast, Partial, Span
from videoaccel.session.registry import make_policy, policy_names

STEPS = 12


@pytest.fixture(scope="module")
def tables() -> dict[str, Tensor]:
    """All that any method needs, measured on the tiny network."""
    run = tiny_run(steps=STEPS)
    path = replay.dense_path(run)
    found = measure(run, list(default_methods())) | run_probe(run, SiteInfluence)
    found["influence.step"] = replay.step_influence(run, path)
    found["lemica.error"] = replay.stretch_errors(run, path, gaps=4)
    return {name: table[0] for name, table in found.items()}


@pytest.mark.parametrize("name", policy_names())
@torch.inference_mode()
def test_what_is_rehearsed_is_what_runs(name: str, tables: dict[str, Tensor]) -> None:
    fields: dict[str, dict[str, Any]] = {"lemica": {"budget": 6}, "elastic": {"decisions": "static"}}
    policy = make_policy(name, **fields.get(name, {}))
    run = tiny_run(steps=policy.steps(STEPS))
    if policy.steps(STEPS) != STEPS:
        tables = {}
    job = run.job(prior=tables)
    real, rehearsed = policy.session(job), policy.session(job)
    run.denoise(real)
    rehearse(rehearsed, job, frames=3)
    assert len(rehearsed.trace) == job.steps
    assert depends_on_clip(rehearsed) == depends_on_clip(real)
    if not depends_on_clip(rehearsed):
        assert rehearsed.digest() == real.digest(), "decisions rest on the step alone"
        assert rehearsed.counts() == real.counts() and rehearsed.shares == real.shares


def report(*steps: Any, shares: Any = None, ms: bool = True, **fields: Any) -> PlanReport:
    run = tiny_run()
    costs = run.costs("flops")
    given: dict[str, Any] = {
        "method": "soda", "fields": {}, "asked": len(steps), "steps": steps, "shares": shares or (1.0,) * len(steps),
        "blocks": run.model.sites, "flops": costs, "ms": costs if ms else None, "error": 0.5, "adaptive": False,
    }  # fmt: skip
    return PlanReport(**{**given, **fields})


MLP = Site("mlp", "time", 1)
EVERYTHING = Span(0, 4)


def test_ratios_count_the_steps_that_were_asked_for() -> None:
    half = report({}, {}, asked=4)
    assert half.ratio(half.flops) == 2.0 and half.anchors == [0, 1]
    one_branch = report({}, {}, shares=(1.0, 0.5))
    assert one_branch.ratio(one_branch.flops) == pytest.approx(2 / 1.5) and one_branch.anchors == [0]


def test_places_are_spread_over_their_modules() -> None:
    block = Site("block", "space", 0)
    made = report(
        {}, {BODY: Forecast(1)}, {EVERYTHING: REUSE}, {block: REUSE}, {MLP: Partial(0.5)}, {}, shares=(1, 0, 1, 1, 1, 0)
    )
    grid = made.grid()
    assert set(grid[0].values()) == {COMPUTE} and set(grid[1].values()) == {Forecast(1)}
    assert set(grid[2].values()) == {REUSE} and len(grid[2]) == 12
    assert [site for site, action in grid[3].items() if action == REUSE] == list(made.blocks[block])
    assert [site for site, action in grid[4].items() if action != COMPUTE] == [MLP]
    assert set(grid[5].values()) == {SKIP}, "the network was not called"
    assert made.summary() == ["compute", "forecast1", "reuse", "9 compute, 3 reuse", "11 compute, 1 partial0.5", "skip"]
    assert made.anchors == [0]


def test_a_plan_is_printed_in_lines() -> None:
    made = report({}, {}, {BODY: REUSE}, {BODY: REUSE}, psnr=31.24, worst_psnr=28.0, cache_bytes=3000, ms=False)
    assert str(made).splitlines() == [
        "soda",
        "  predicted: 2.00x fewer FLOPs",
        "  stores at most 3 KiB",
        "  expected quality: 31.2 dB PSNR to the plain clip, calibration clips' mean (the worst: 28.0)",
        "  computed in full: 2 of 4 steps",
        "  compute: steps 0-1",
        "  reuse: steps 2-3",
    ]
    fitted = report({}, {BODY: Combine((1.5, -0.5))}, {BODY: Combine((1.0,))})
    assert str(fitted).splitlines()[-2:] == ["  fitted from 2 steps: step 1", "  fitted from 1 step: step 2"]
    assert repr(made) == "<PlanReport soda: 2 of 4 steps computed in full, 2.00x fewer FLOPs, 31.2 dB expected>"
    assert repr(report({}, adaptive=True)) == "<PlanReport soda: it decides while it runs>"
    assert "so nothing is foretold" in str(report({}, adaptive=True))


def test_equal_steps_are_gathered() -> None:
    assert gathered(["a", "b", "b", "a"]) == {"a": "0, 3", "b": "1-2"} and gathered([]) == {}


def test_it_is_data() -> None:
    data = report({}, {MLP: REUSE}, ms=False).as_data()
    assert json.loads(json.dumps(data)) == data
    assert data["speedup"] is None and data["flops_ratio"] > 1 and data["anchors"] == [0]
    assert data["steps"][1] == {"rows": 1.0, "actions": {"time.1.mlp": "reuse"}}


@pytest.mark.parametrize("ms", [True, False])
def test_it_is_drawn(tmp_path: Path, ms: bool) -> None:
    pytest.importorskip("matplotlib")
    made = report({}, {MLP: Partial(0.25)}, {EVERYTHING: REUSE}, {BODY: Forecast(2)}, ms=ms)
    draw(made, tmp_path / "plan.png")
    picture = Image.open(tmp_path / "plan.png").convert("RGB")
    assert min(picture.size) > 300
    colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    for text in ("#1b3a6b", "#9dd6b8", "#d9d9d9", "#e08e2b"):
        assert tuple(int(text[k : k + 2], 16) for k in (1, 3, 5)) in colours


def test_where_decisions_depend_on_the_clip_nothing_is_foretold(tmp_path: Path) -> None:
    made = report({}, {MLP: REUSE}, adaptive=True)
    data = made.as_data()
    assert [data[name] for name in ("flops_ratio", "speedup", "anchors", "steps")] == [None, None, None, []]
    with pytest.raises(ValueError, match="no plan of soda to draw: its decisions depend on the clip"):
        draw(made, tmp_path / "plan.png")


def test_without_matplotlib_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"`png` needs matplotlib; pip install 'videoaccel\[report\]' brings it"):
        draw(report({}), tmp_path / "plan.png")
    assert not list(tmp_path.iterdir())


# -- with a model


@pytest.fixture(scope="module")
def prior(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prior:
    out = tmp_path_factory.mktemp("prior") / "a.safetensors"
    fields: dict[str, Any] = {"steps": 6, "frames": 5, "samples": 1, "replay_samples": 1, "methods": "soda"}
    return calibrate(CalibrateSettings(model=str(pipeline_folder), output=str(out), **fields))


def settings(folder: Path, prior: Prior | None = None, **values: Any) -> GenerateSettings:
    path = None if prior is None else str(prior.path)
    return GenerateSettings(model=str(folder), prior=path, **{"steps": 6, "frames": 5, **values})


def test_a_plan_is_made_from_a_prior(pipeline_folder: Path, prior: Prior) -> None:
    made = plan(settings(pipeline_folder, prior, accel="soda", accel_options={"flops_ratio": 1.5}), time=False)
    assert made.ratio(made.flops) >= 1.5 and made.prior == prior.path and made.error is not None and made.ms is None
    assert made.anchors[0] == 0 and not made.adaptive


def test_a_speedup_is_planned_in_milliseconds(pipeline_folder: Path, prior: Prior) -> None:
    made = plan(settings(pipeline_folder, prior, speedup=1.4, accel_options={"schedule": "modules"}))
    assert made.ms is not None and made.ms.unit == "ms" and made.ratio(made.ms) >= 1.4


def test_a_static_method_needs_no_prior(pipeline_folder: Path) -> None:
    made = plan(settings(pipeline_folder, accel="fora"), time=False)
    assert made.prior is None and made.error is None and made.anchors == [0, 1, 2, 4]
    fewer = plan(settings(pipeline_folder, accel="fewer_steps"), time=False)
    assert len(fewer.steps) == 3 and fewer.asked == 6 and fewer.ratio(fewer.flops) == pytest.approx(2.0)


def test_on_a_full_gpu_it_has_the_form_that_a_generation_takes(
    make: Workshop, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has said what may be stored, and four fifths of what is free are less than the method would like."""
    given = {"accel": "fora", "steps": 6, "frames": 5}
    roomy = plan(settings(pipeline_folder, **given), time=False)
    monkeypatch.setattr(cache_memory, "free_on_gpu", lambda device: roomy.cache_bytes)
    found = plan(settings(pipeline_folder, **given), time=False)
    make(**given)
    made = make.record()["acceleration"]
    assert found.fields == made["fields"] != roomy.fields
    assert found.cache_bytes == made["loops"][0]["cache_foretold_bytes"] < roomy.cache_bytes
    by_hand = plan(settings(pipeline_folder, **given, cache_memory=2 * roomy.cache_bytes), time=False)
    assert by_hand.fields == roomy.fields, "what is said counts more than what is free"


def test_a_foreign_prior_is_refused_or_interpolated(pipeline_folder: Path, prior: Prior) -> None:
    given = settings(pipeline_folder, prior, accel="soda", steps=9)
    with pytest.raises(ValueError, match="made for steps 6, here 9; calibrate for this setting, or allow"):
        plan(given, time=False)
    made = plan(given.model_copy(update={"allow_foreign_prior": True}), time=False)
    assert made.interpolated == ("steps 6, here 9",) and len(made.steps) == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is nothing to plan without a method; name one, such as `accel=soda`"),
        ({"accel": "soda", "accel_options": {"flops_ratio": 50}}, "cannot be reached: the largest possible is"),
        ({"accel": "soda", "steps": 7}, r"needs the calibrated table|the prior was made for"),
    ],
)
def test_refusals(pipeline_folder: Path, prior: Prior, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(settings(pipeline_folder, prior if values else None, **values), time=False)
