"""What a method did, told: beside a clip, and from Python."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.policies.rollout import measure, rollout
from tests.workshop import Workshop
from videoaccel.jobs.explanation import COLLAPSED, Explanation, explain
from videoaccel.models.seam import BODY
from videoaccel.planning.picture import draw
from videoaccel.session.registry import make_policy

STEPS = 12


@pytest.fixture(scope="module")
def prior() -> dict[str, Tensor]:
    return measure("soda", steps=STEPS, batch=2)


def explained(name: str, prior: dict[str, Tensor] | None = None, **fields: Any) -> Explanation:
    _, session = rollout(make_policy(name, **fields), steps=STEPS, prior=prior)
    return explain(session, method=name, steps=STEPS)


def test_soda_tells_what_calibration_measured(prior: dict[str, Tensor]) -> None:
    found = explained("soda", prior, influence=False, anchors=4)
    anchors = [i for i, step in enumerate(found.report.steps) if str(step[BODY]) == "compute"]
    for i, step in enumerate(found.errors):
        last = max(anchor for anchor in anchors if anchor <= i)
        table = prior["soda.velocity"][i, :3, i - last - 1]
        assert dict(step) == ({} if i in anchors else {BODY: pytest.approx(float(table.min()))})


def test_sodas_modules_tell_it_one_by_one(prior: dict[str, Tensor]) -> None:
    found = explained("soda", prior, influence=False, schedule="sites", rule="reuse")
    sites = [site for modules in found.report.blocks.values() for site in modules]
    last = dict.fromkeys(sites, 0)
    for i, (step, errors) in enumerate(zip(found.report.steps, found.errors, strict=True)):
        assert errors.keys() == {site for site in sites if str(step[site]) != "compute"}
        for m, site in enumerate(sites):
            if site not in errors:
                last[site] = i
            else:
                assert errors[site] == pytest.approx(float(prior["soda.cache"][i, m, i - last[site] - 1]))


def test_sada_tells_what_it_predicts() -> None:
    found = explained("sada", threshold=2.0)
    resting = [i for i, share in enumerate(found.report.shares) if share == 0]
    assert resting == [i for i, step in enumerate(found.errors) if step]
    assert all(0 < found.errors[i][BODY] < 2.0 for i in resting)


@pytest.mark.parametrize(
    ("name", "fields", "gained"),
    [("fora", {"warmup": STEPS}, False), ("fora", {}, True), ("tgate", {"gate": 0.5}, True), ("off", {}, True),
     ("sada", {"threshold": 1e-9}, False), ("fewer_steps", {}, True)],
)  # fmt: skip
def test_it_warns_where_nothing_was_gained(name: str, fields: dict[str, Any], gained: bool) -> None:
    _, session = rollout(make_policy(name, **fields), steps=make_policy(name, **fields).steps(STEPS))
    warned = explain(session, method=name, steps=STEPS).warnings
    assert warned == ([] if gained else [f"{name} gained nothing: everything was computed in every step"])


def test_it_warns_of_guidance_that_collapsed() -> None:
    def watched(job: Any, mix: Any) -> Any:
        session = make_policy("fora").session(job, mix=mix)
        session.note_guidance()
        return session

    _, session = rollout(watched, steps=STEPS)
    found = explain(session, method="fora", steps=STEPS)
    assert found.guidance is not None and found.guidance.keys() == set(range(STEPS)) and not found.warnings
    assert min(found.guidance.values()) > COLLAPSED
    assert session.guidance is not None
    session.guidance |= {3: torch.tensor(0.0), 4: torch.tensor(1e-5), 7: torch.tensor(0.0)}
    (warning,) = explain(session, method="fora", steps=STEPS).warnings
    assert warning == "guidance collapsed: both branches say the same in steps 3-4, 7"


def test_a_picture_with_all_that_is_known(tmp_path: Any, prior: dict[str, Tensor]) -> None:
    found = explained("soda", prior, influence=False, schedule="sites")
    draw(found.report, tmp_path / "plain.png")
    draw(found.report, tmp_path / "all.png", errors=found.errors, guidance={0: 0.3, 4: 0.2})
    plain, whole = (Image.open(tmp_path / name) for name in ("plain.png", "all.png"))
    assert whole.width == plain.width and whole.height > plain.height + 150
    draw(replace(found.report, method="a$b$c $\\frac$"), tmp_path / "dollars.png")


def test_beside_a_clip(make: Workshop) -> None:
    make("out.gif", accel="fora", accel_options={"warmup": 1}, explain=True)
    assert make.files == ["out-explain.png", "out.gif", "out.json"]
    assert min(Image.open(make.folder / "out-explain.png").size) > 300
    (loop,) = make.record()["acceleration"]["loops"]
    told = loop["explained"]
    assert len(told["steps"]) == 3 and {len(step) for step in told["steps"]} == {len(told["sites"])}
    assert set("".join(told["steps"])) == {"c", "r"} and told["warnings"] == []
    assert set(told["guidance"]) == {"0", "1", "2"}
    served = sum("r" in step for step in told["steps"])
    assert served and 1 - served / 3 < told["flops_share"] < 1, "what is left of a served step is not free"
    before = (make.folder / "out.gif").read_bytes()
    make("again.gif", accel="fora", accel_options={"warmup": 1})
    assert (make.folder / "again.gif").read_bytes() == before
    assert "explained" not in make.record("again.json")["acceleration"]["loops"][0]


def test_of_two_methods_and_every_loop(make: Workshop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(
            "out.gif", accel="fora+fixed_linear", explain=True, loops=2, condition_latents=1,
            accel_options={"fora": {"warmup": 1}, "fixed_linear": {"warmup": 3}},
        )  # fmt: skip
    assert [name for name in make.files if name.endswith(".png")] == ["out-explain-0.png", "out-explain-1.png"]
    gained = [str(warning.message) for warning in caught if "gained nothing" in str(warning.message)]
    assert gained == ["fora+fixed_linear gained nothing: fixed_linear: everything was computed in every step"], (
        "said once"
    )


def test_without_a_method_there_is_nothing_to_explain(make: Workshop) -> None:
    with pytest.raises(ValueError, match="`explain` draws what a method did; name one, such as `accel=soda`"):
        make("out.gif", explain=True)
