"""SODA: its calibrated errors against direct arithmetic, its plans against their targets."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import costs_of, rollout
from videoaccel.models.seam import BODY, Site
from videoaccel.planning.session import PlanSession
from videoaccel.policies._soda_errors import SHARES, ErrorProbe
from videoaccel.policies._soda_network import fewest_calls
from videoaccel.session.actions import Compute, Forecast, Partial, Reuse
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

STEPS = 10


@pytest.fixture(scope="module")
def prior() -> dict[str, Tensor]:
    """Calibrated on one run of the tiny network."""
    _, probe = rollout(lambda job, mix: ErrorProbe(job, mix=mix), steps=STEPS, batch=2)
    assert isinstance(probe, ErrorProbe)
    tables = {name: table.mean(0) for name, table in probe.tables().items()}
    sites = tables["soda.cache"].shape[1]
    return tables | {"influence.site": torch.ones(STEPS, sites), "influence.step": torch.ones(STEPS)}


class Outputs(Session):
    """A dense run that remembers one module's outputs, and the guided velocities."""

    name = "time.1.mlp"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outputs: list[Tensor] = []
        self.guided: list[Tensor] = []

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        if str(site) == self.name:
            self.outputs.append(branch.mix(branch.pre(x, cond), cond))
        return super().run(site, branch, x, cond)

    def predict(self, i: int, x: Tensor, call: Any) -> Any:
        out = super().predict(i, x, call)
        self.guided.append(out["uncond"] + 4.0 * (out["cond"] - out["uncond"]))
        return out


def cosine_error(a: Tensor, b: Tensor) -> float:
    return float((1 - torch.cosine_similarity(a.flatten(1), b.flatten(1))).mean())


def test_measured_errors_are_those_of_the_definition() -> None:
    exact, dense = rollout(lambda job, mix: Outputs(job, mix=mix), steps=6)
    measured, probe = rollout(lambda job, mix: ErrorProbe(job, mix=mix), steps=6)
    assert isinstance(dense, Outputs) and isinstance(probe, ErrorProbe)
    assert torch.equal(measured, exact), "measuring changes nothing"
    site = probe.sites[Site("mlp", "time", 1)]
    tables, d, v = probe.tables(), dense.outputs, dense.guided
    assert tables["soda.cache"][0, 5, site, 1] == pytest.approx(cosine_error(d[3], d[5]), abs=1e-5)
    line = d[3] + (d[3] - d[0]) * (2 / 3)
    assert tables["soda.forecast"][0, 5, site, 1] == pytest.approx(cosine_error(line, d[5]), abs=1e-5)
    assert tables["soda.velocity"][0, 5, 0, 2] == pytest.approx(float((v[2] - v[5]).square().mean()), rel=1e-3)
    ahead = v[4] + (v[4] - v[2]) / 2
    assert tables["soda.velocity"][0, 5, 1, 0] == pytest.approx(float((ahead - v[5]).square().mean()), rel=1e-3)
    assert tables["soda.cache"][0, 0].eq(1).all() and tables["soda.velocity"][0, 0].isinf().all()
    prune, cache = tables["soda.prune"][0, 3:], tables["soda.cache"][0, 3:]
    assert (prune[..., 0, 0] <= cache[..., 0] + 1e-6).float().mean() > 0.9, "computing some columns helps"
    assert prune.shape[2] == len(SHARES)


def test_some_sites_at_a_time_give_the_same_errors() -> None:
    _, whole = rollout(lambda job, mix: ErrorProbe(job, mix=mix), steps=5)
    half = frozenset({Site("attn", "space", 0), Site("mlp", "time", 1)})
    _, part = rollout(lambda job, mix: ErrorProbe(job, mix=mix, sites=half), steps=5)
    assert isinstance(whole, ErrorProbe) and isinstance(part, ErrorProbe)
    index = sorted(whole.sites[site] for site in half)
    for name in ("soda.cache", "soda.prune", "soda.forecast"):
        assert torch.equal(part.tables()[name][:, :, index], whole.tables()[name][:, :, index])
    assert part.cache_bytes < whole.cache_bytes / 4


@pytest.mark.parametrize("ratio", [1.3, 2.0])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"order": 0, "influence": False, "objective": "additive"},
        {"schedule": "modules"},
        {"schedule": "modules", "forecast": True, "objective": "additive"},
        {"schedule": "modules", "rule": "reuse", "slots": "coarsest"},
        {"schedule": "sites"},
        {"schedule": "sites", "forecast": True, "rule": "reuse", "influence": False},
    ],
)
def test_what_ran_is_what_was_planned(prior: dict[str, Tensor], fields: dict[str, Any], ratio: float) -> None:
    model = tiny_stdit()
    policy = make_policy("soda", flops_ratio=ratio, **fields)
    exact, _ = rollout(None, model=model, steps=STEPS)
    out, session = rollout(policy, model=model, steps=STEPS, prior=prior)
    costs = costs_of(model)
    spent = STEPS * costs.dense / costs.total(session.trace, session.shares)
    assert spent >= ratio - 1e-9
    planned = [
        step | {p: Compute() for p in taken if p not in step}
        for step, taken in zip(session.plan.steps, session.trace, strict=True)  # type: ignore[attr-defined]
    ]
    for step, taken in zip(planned, session.trace, strict=True):
        assert all(step[place] == action for place, action in taken.items()), "no guard had to step in"
    assert not torch.equal(out, exact) and torch.isfinite(out).all()


def test_anchors_are_counted_and_come_first(prior: dict[str, Tensor]) -> None:
    for schedule in ("network", "modules"):
        _, session = rollout(make_policy("soda", anchors=5, schedule=schedule), steps=STEPS, prior=prior)
        anchors = session.plan.anchors  # type: ignore[attr-defined]
        assert len(anchors) == 5 and anchors[0] == 0


def test_the_order_that_errs_least_is_chosen_in_every_step() -> None:
    """Third order never, even where it would be best."""
    table = torch.full((STEPS, 4, 8), 9.0)
    table[:, 0], table[:, 3] = 2.0, 0.5
    table[4:8, 1], table[8:, 2] = 1.0, 1.0
    tables = {"soda.velocity": table, "influence.step": torch.ones(STEPS)}
    policy = make_policy("soda", anchors=STEPS // 2, distances=(2,))
    _, session = rollout(policy, steps=STEPS, prior=tables)
    orders = [getattr(step[BODY], "order", None) for step in session.plan.steps]  # type: ignore[attr-defined]
    assert orders == [None if i % 2 == 0 else 0 if i < 4 else 1 if i < 8 else 2 for i in range(STEPS)]


def test_network_plan_calls_the_network_at_anchors_only(prior: dict[str, Tensor]) -> None:
    _, session = rollout(make_policy("soda", anchors=4, order=1), steps=STEPS, prior=prior)
    taken = [step[BODY] for step in session.trace]
    assert sum(isinstance(action, Compute) for action in taken) == 4 == sum(session.shares)
    assert all(isinstance(action, Compute) or action == Forecast(1) for action in taken)


@pytest.mark.parametrize(("target", "calls"), [(20.0, 2), (24.0, 3), (30.0, 4), (32.0, 5), (40.0, 8)])
def test_a_quality_is_kept_with_the_fewest_calls_that_calibration_says(
    prior: dict[str, Tensor], target: float, calls: int
) -> None:
    curve = torch.full((STEPS,), math.nan)
    for count, value in {2: 20.0, 4: 30.0, 6: 34.0, 8: 40.0}.items():
        curve[count - 1] = value
    _, session = rollout(make_policy("soda", min_psnr=target), steps=STEPS, prior={**prior, "soda.psnr": curve})
    assert sum(session.shares) == calls
    _, session = rollout(
        make_policy("soda", max_lpips=1.0001 / target), steps=STEPS, prior={**prior, "soda.lpips": 1 / curve}
    )
    assert calls <= sum(session.shares) <= calls + 1
    best = "the best plan, of 8 network calls"
    with pytest.raises(ValueError, match=f"`min_psnr=41` is out of reach: {best}, kept 40 dB in cal"):
        rollout(make_policy("soda", min_psnr=41.0), steps=STEPS, prior={**prior, "soda.psnr": curve})
    with pytest.raises(ValueError, match=f"`max_lpips=0.02` is out of reach: {best}, had 0.025 in calibration; a"):
        rollout(make_policy("soda", max_lpips=0.02), steps=STEPS, prior={**prior, "soda.lpips": 1 / curve})
    curve[8] = 39.0
    _, session = rollout(make_policy("soda", min_psnr=39.5), steps=STEPS, prior={**prior, "soda.psnr": curve})
    assert sum(session.shares) == 8, "more calls that kept less put nothing out of reach"


def test_a_plan_foretells_the_quality_of_its_curve_only(prior: dict[str, Tensor]) -> None:
    curve = torch.full((STEPS,), math.nan)
    curve[1], curve[5] = 20.0, 36.0

    def foretold(**fields: Any) -> float | None:
        _, session = rollout(make_policy("soda", **fields), steps=STEPS, prior={**prior, "soda.psnr": curve})
        return cast(PlanSession, session).plan.psnr

    assert foretold(anchors=4) == pytest.approx(28.0)
    assert foretold(anchors=7) is None, "beyond what was measured"
    assert foretold(anchors=4, order=1) is None, "another method than the curve's"


def test_a_dip_in_the_curve_counts(prior: dict[str, Tensor]) -> None:
    assert fewest_calls([math.nan, 30.0, 25.0, 31.0, 33.0], 28.0, what="min_psnr") == 4
    assert fewest_calls([10.0, 11.0], 5.0, what="min_psnr") == 1


def test_a_modules_plan_uses_serve_and_prune(prior: dict[str, Tensor]) -> None:
    _, session = rollout(make_policy("soda", flops_ratio=1.5, schedule="modules"), steps=STEPS, prior=prior)
    kinds = {type(action) for step in session.trace for action in step.values()}
    assert {Compute, Partial} <= kinds or {Compute, Reuse} <= kinds
    paper = make_policy("soda", anchors=5, schedule="modules", rule="paper", influence=False)
    _, session = rollout(paper, steps=STEPS, prior=prior)
    assert session.counts().get("reuse", 0) + sum(n for a, n in session.counts().items() if "partial" in a) > 0


def test_slots_no_longer_needed_are_dropped(prior: dict[str, Tensor]) -> None:
    _, session = rollout(make_policy("soda", anchors=5, schedule="modules", rule="reuse"), steps=STEPS, prior=prior)
    last = session.plan.anchors[-1]  # type: ignore[attr-defined]
    assert last < STEPS - 1 or session.cache_bytes == 0


@pytest.mark.parametrize(
    ("fields", "job", "message"),
    [
        ({"flops_ratio": 2.0}, {"prior": None}, "needs the calibrated table soda.velocity.*videoaccel calibrate"),
        ({"flops_ratio": 2.0}, {"steps": STEPS - 1}, "made for 10 steps, here are 9"),
        ({"flops_ratio": 99.0}, {}, "99 times fewer FLOPs cannot be reached: the largest possible is"),
        (
            {"flops_ratio": 99.0, "schedule": "sites"},
            {},
            "99 times fewer FLOPs cannot be reached: the largest possible is",
        ),
        ({"flops_ratio": 5.5, "distances": (1, 2, 3, 4, 5)}, {}, r"5.5 times fewer FLOPs cannot .* possible is 5\.00"),
        ({"min_psnr": 30.0}, {}, r"needs the calibrated table soda\.psnr"),
        ({"anchors": 1}, {}, "1 anchors of 10 steps are not possible"),
    ],
)
def test_refusals(prior: dict[str, Tensor], fields: dict[str, Any], job: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(make_policy("soda", **fields), **{"steps": STEPS, "prior": prior, **job})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"anchors": 5, "speedup": 2.0}, "give one target, not anchors and speedup"),
        ({"anchors": 5, "schedule": "sites"}, "has no anchors"),
        ({"min_psnr": 30.0, "max_lpips": 0.1}, "give one target, not min_psnr and max_lpips"),
        ({"min_psnr": 30.0, "order": 1}, "min_psnr holds for the default order only"),
        ({"speedup": 0.5}, "speedup: Input should be greater than or equal to 1, got 0.5"),
        ({"speedups": 2}, "soda has no field 'speedups'; it has anchors, flops_ratio, speedup"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy("soda", **fields)


def test_unknown_methods_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown method 'sodda'; did you mean 'soda'"):
        make_policy("sodda")
