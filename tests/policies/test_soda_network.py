"""SODA's schedule of network calls: fitted steps carried out, and plans that never get worse."""

import json
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.policies.rollout import rollout
from videoaccel.cli.app import run
from videoaccel.common.package import packaged
from videoaccel.models.seam import BODY
from videoaccel.planning.fitted import ANCHORS, QUALITY, Fitted, choices, from_tables, to_tables
from videoaccel.planning.prior import Prior
from videoaccel.planning.session import PlanSession
from videoaccel.policies._soda_network import combinations, forecast_plan, no_more_than_helps, within
from videoaccel.policies.soda import Soda
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Combine, Forecast, Place, precisely
from videoaccel.session.job import Job
from videoaccel.session.registry import make_policy

STEPS = 8
MARKS = (0, 1, 3, 6)
WEIGHTS = ((), (1.4, -0.4), (1.7, -0.8, 0.1), (1.2, -0.3, 0.1))
FIT = Fitted(MARKS, WEIGHTS)


def tables(**quality: float) -> dict[str, Tensor]:
    """A prior with one fit of four calls, and a quality by ``fitted4`` or ``taylor5``."""
    kept = torch.full((STEPS, 2, 3), math.nan)
    for name, value in quality.items():
        kind, calls = name[:-1], int(name[-1])
        kept[calls - 1, ("taylor", "fitted").index(kind)] = torch.tensor([value, value - 5, 1.0])
    velocity = torch.arange(1.0, 9.0).repeat(STEPS, 4, 1)
    return {"soda.velocity": velocity, **to_tables([FIT], kept, steps=STEPS)}


class Calls(ActionSession):
    """Calls the network in some steps, and serves combinations of what it said, by plain arithmetic."""

    decides_network = True

    def __init__(self, job: Job, **options: Any) -> None:
        super().__init__(job, **options)
        self.said: list[dict[str, Tensor]] = []

    def predict(self, i: int, x: Tensor, call: Any) -> Any:
        self.begin(i)
        if i in MARKS:
            self.said.append(dict(self.network(call)))
            return self.said[-1]
        weights = WEIGHTS[max(j for j, mark in enumerate(MARKS) if mark < i)]
        recent = self.said[::-1]
        served = lambda name: sum(w * out[name] for w, out in zip(weights, recent, strict=False))  # noqa: E731
        return {name: cast(Tensor, served(name)) for name in ("cond", "uncond")}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_combination_is_served_to_each_branch_and_row(batch: int) -> None:
    wanted, _ = rollout(lambda job, mix: Calls(job, mix=mix), steps=STEPS, batch=batch)
    found, session = rollout(make_policy("soda", anchors=4), steps=STEPS, batch=batch, prior=tables(fitted4=40.0))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert [i for i, step in enumerate(session.trace) if step[BODY] == COMPUTE] == list(MARKS)
    assert session.counts() == {"compute": 4, "combine2": 1, "combine3": 3}
    plan = cast(PlanSession, session).plan
    assert (plan.psnr, plan.worst) == (40.0, 35.0)
    assert cast(PlanSession, session).order == 2, "three velocities are stored, no more"


def test_rows_of_a_batch_are_what_clips_alone_are() -> None:
    both, _ = rollout(make_policy("soda", anchors=4), steps=STEPS, batch=2, prior=tables(fitted4=40.0))
    for row in range(2):
        alone, _ = rollout(make_policy("soda", anchors=4), steps=STEPS, batch=2, only=[row], prior=tables(fitted4=40.0))
        assert torch.allclose(alone[0], both[row], atol=1e-5)


def test_a_digest_knows_the_coefficients() -> None:
    one, other = tables(fitted4=40.0), tables(fitted4=40.0)
    other["soda.fitted.weights"] = other["soda.fitted.weights"] * 1.01
    digests = {rollout(make_policy("soda", anchors=4), steps=STEPS, prior=p)[1].digest() for p in (one, other)}
    assert len(digests) == 2
    assert precisely(Combine((1.25, -0.25), (2,))) == "combine2(1.25 -0.25)" and precisely(Forecast(1)) == "forecast1"


def test_after_a_callback_has_changed_the_latent_forecasts_stand_in() -> None:
    """What is combined are the velocities that it was fitted for, or it is not done."""

    def nudge(i: int, t: Tensor, x: Tensor) -> Tensor:
        return x + 0.01 if i == 1 else x

    policy = make_policy("soda", anchors=4)
    found, session = rollout(policy, steps=STEPS, prior=tables(fitted4=40.0), callback=nudge)
    taken = [str(step[BODY]) for step in session.trace]
    assert taken[:4] == ["compute", "compute", "compute", "compute"], "nothing is stored after it"
    assert taken[4:] == ["forecast2", "forecast2", "compute", "forecast2"] and found.isfinite().all()


def test_a_combination_of_more_than_is_known_is_computed() -> None:
    class Early(ActionSession):
        decides_network = True

        def decide(self, place: Place, seen: Seen) -> Action:
            return Combine((1.5, -0.5), (1,)) if self.i in (1, 3) else COMPUTE

    _, session = rollout(lambda job, mix: Early(job, mix=mix, order=1), steps=4)
    assert [str(step[BODY]) for step in session.trace] == ["compute", "compute", "compute", "combine2"]


def test_combinations_know_the_gaps_between_their_velocities() -> None:
    actions = combinations(FIT, STEPS)
    assert [str(action) for action in actions] == [
        "compute", "compute", "combine2", "compute", "combine3", "combine3", "compute", "combine3",
    ]  # fmt: skip
    assert [action.gaps for action in actions if isinstance(action, Combine)] == [(1,), (2, 1), (2, 1), (3, 2)]


def test_tables_give_back_the_fit() -> None:
    again = from_tables(tables(), 4)
    assert again is not None and again.anchors == MARKS
    assert [len(weights) for weights in again.weights] == [0, 2, 3, 3]
    for one, other in zip(again.weights, WEIGHTS, strict=True):
        assert one == pytest.approx(other)
    assert from_tables(tables(), 5) is None and from_tables({}, 4) is None and from_tables(tables(), 99) is None


@pytest.mark.parametrize(
    ("quality", "ratio", "taken"),
    [
        ({"fitted4": 40.0, "taylor4": 38.0}, 2.0, "combine3"),
        ({"fitted4": 38.0, "taylor4": 40.0}, 2.0, "forecast"),
        ({"fitted4": 40.0, "taylor6": 39.0}, 1.3, "combine3"),
        ({"fitted4": 40.0, "taylor6": 41.0}, 1.3, "forecast"),
        ({"fitted4": 40.0, "taylor5": 41.0}, 2.0, "combine3"),
    ],
)
def test_the_best_plan_within_the_budget_is_taken(quality: dict[str, float], ratio: float, taken: str) -> None:
    plan = Soda(flops_ratio=ratio).network(tables(**quality), STEPS)
    assert any(str(step[BODY]).startswith(taken) for step in plan.steps)
    assert len(plan.anchors) <= STEPS / ratio


def test_orders_by_name() -> None:
    prior = tables(fitted4=38.0, taylor4=40.0)
    kinds = {
        order: {type(step[BODY]) for step in Soda(anchors=4, order=order).network(prior, STEPS).steps} - {type(COMPUTE)}
        for order in ("best", "fitted", "taylor", 1)
    }
    assert kinds == {"best": {Forecast}, "fitted": {Combine}, "taylor": {Forecast}, 1: {Forecast}}
    with pytest.raises(ValueError, match="steps were not fitted for 5 anchors; they were for 4"):
        Soda(anchors=5, order="fitted").network(prior, STEPS)
    with pytest.raises(ValueError, match=r"needs the calibrated table soda\.fitted"):
        Soda(order="fitted").network({"soda.velocity": prior["soda.velocity"]}, STEPS)
    with pytest.raises(ValueError, match="steps are fitted for the default objective only, not for additive"):
        Soda(order="fitted", objective="additive")


def test_quality_is_promised_on_average_or_for_the_worst_clip() -> None:
    prior = tables(taylor3=30.0, fitted4=40.0, taylor6=44.0)
    for target, calls in ((29.0, 3), (31.0, 4), (40.0, 4), (41.0, 6)):
        assert len(Soda(min_psnr=target).network(prior, STEPS).anchors) == calls
        assert len(Soda(min_worst_psnr=target - 5).network(prior, STEPS).anchors) == calls
    with pytest.raises(ValueError, match=r"`min_worst_psnr=40` is out of reach: .* kept 39 dB of the worst clip in"):
        Soda(min_worst_psnr=40.0).network(prior, STEPS)
    with pytest.raises(ValueError, match=r"needs the calibrated table soda\.fitted\.quality"):
        Soda(min_worst_psnr=20.0).network({"soda.velocity": prior["soda.velocity"]}, STEPS)


def test_what_is_offered_rises() -> None:
    found = choices(tables(taylor3=30.0, taylor4=35.0, fitted4=40.0, taylor5=39.0, taylor6=41.0))
    assert [(one.calls, one.fitted is not None, one.mean) for one in found] == [
        (3, False, 30.0), (4, True, 40.0), (6, False, 41.0),
    ]  # fmt: skip
    assert within(found, 5) == found[1] and within(found, 2) is None


def test_without_fits_fewer_calls_are_taken_where_the_curve_is_higher() -> None:
    curve = [math.nan, 20.0, 30.0, 28.0, math.nan, 34.0]
    assert [no_more_than_helps(curve, calls) for calls in range(1, 8)] == [1, 2, 3, 3, 5, 6, 7]


def test_more_calls_never_promise_a_larger_error() -> None:
    """Random errors, which need not grow with the age."""
    for seed in range(5):
        served = torch.rand(12, 6, generator=torch.Generator().manual_seed(seed))
        orders = torch.zeros(12, 6, dtype=torch.long)
        errors = [
            forecast_plan(served, served, orders, n, objective=objective, exactly=False).error  # type: ignore[arg-type]
            for objective in ("minimax", "additive")
            for n in range(2, 13)
        ]
        for part in (errors[:11], errors[11:]):
            assert part == sorted(part, reverse=True)


def test_priors_keep_fits_apart() -> None:
    setting = {"model": "a", "scheduler": "flow", "steps": STEPS, "size": [8, 8], "frames": 1, "guidance": 1.0,
               "dtype": "float32"}  # fmt: skip
    few, many = tables(fitted4=30.0), tables(fitted4=40.0)
    one = Prior(setting, few, dict.fromkeys(few, 4), {"fitted": [[0, "a"]]})
    other = Prior(setting, many, dict.fromkeys(many, 8), {"fitted": [[1, "b"]]})
    for merged in (one.merged(other), other.merged(one)):
        assert merged.info["fitted"] == [[1, "b"]]
        assert merged.tables[QUALITY][3, 1, 0] == 40.0 and merged.samples[QUALITY] == 8
        assert merged.samples["soda.velocity"] == 12
    elsewhere = one.for_setting({**setting, "steps": 12}, foreign=True)
    assert ANCHORS not in elsewhere.tables, "anchors of other steps mean nothing"
    assert ANCHORS in one.for_setting({**setting, "frames": 2}, foreign=True).tables


@pytest.fixture(scope="module")
def box() -> Prior:
    return Prior.load(packaged("assets", "priors") / "demo.safetensors")


def test_in_the_box_a_plan_for_a_budget_is_as_good_as_every_plan_for_a_smaller_one(box: Prior) -> None:
    """By the measure on held-out clips, and by the expected error where nothing was measured."""
    ratios = [30 / calls for calls in range(30, 4, -1)]
    plans = [Soda(flops_ratio=ratio).network(box.tables, 30) for ratio in ratios]
    means = [plan.psnr if plan.psnr is not None else math.inf for plan in plans]
    assert means == sorted(means, reverse=True)
    assert all(len(plan.anchors) <= 30 / ratio + 1e-9 for plan, ratio in zip(plans, ratios, strict=True))
    errors = [Soda(flops_ratio=ratio, order=1).network(box.tables, 30).error for ratio in ratios]
    assert errors == sorted(errors)


def test_in_the_box_fitted_steps_win_where_it_matters(box: Prior) -> None:
    for calls in (10, 12, 15):
        best = Soda(anchors=calls).network(box.tables, 30)
        taylor = Soda(anchors=calls, order="taylor").network(box.tables, 30)
        assert len(best.anchors) == calls == len(taylor.anchors)
        assert best.psnr is not None and best.worst is not None and best.worst <= best.psnr
        assert best.psnr == max(c.mean for c in choices(box.tables) if c.calls <= calls)
    assert any(one.fitted is not None for one in choices(box.tables))


def test_plan_json_has_the_coefficients(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = ["--accel", "soda", "--anchors", "12", "--set", "accel_options.order=fitted"]
    assert run(["plan", *fitted, "--json", "--no-time", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    shown = [step["coefficients"]["body"] for step in said["steps"] if "coefficients" in step]
    assert shown and all(1 <= len(weights) <= 3 for weights in shown) and len(said["anchors"]) == 12
    assert said["predicted_worst_psnr"] <= said["predicted_psnr"]
