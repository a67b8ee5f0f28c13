"""Two methods in one generation."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import make_job, measure, rollout
from videoaccel.generation.cache_memory import fit
from videoaccel.models.seam import BODY
from videoaccel.policies._sada_stability import Rules, Track
from videoaccel.session.actions import COMPUTE, Forecast
from videoaccel.session.chain import Chain, ChainSession
from videoaccel.session.registry import make_policy

STEPS = 12
LOOSE: dict[str, Any] = {"threshold": 2.0, "start": 0.0}
"""SADA's fields with which it rests on the tiny network."""

UNDER: dict[str, dict[str, Any]] = {
    "delta_dit": {"share": 0.5},
    "elastic": {"decisions": "static"},
    "fora": {},
    "pab": {},
    "soda": {},
    "taylorseer": {},
}


@pytest.fixture(scope="module")
def prior() -> dict[str, Tensor]:
    return measure("soda", steps=STEPS, batch=2)


def play(name: str, prior: dict[str, Tensor], fields: dict[str, Any], **options: Any) -> Any:
    return rollout(make_policy(name, **fields), steps=STEPS, prior=prior, **options)


def fields_of(under: str, over: str = "sada", **more: Any) -> dict[str, Any]:
    return {under: UNDER[under], over: LOOSE | more}


def rested(session: Any) -> list[int]:
    return [i for i, step in enumerate(session.trace) if isinstance(step.get(BODY), Forecast)]


@pytest.mark.parametrize("under", UNDER)
def test_both_do_their_part(under: str, prior: dict[str, Tensor]) -> None:
    out, session = play(f"{under}+sada", prior, fields_of(under))
    assert isinstance(session, ChainSession)
    resting = rested(session)
    assert resting and len(resting) < STEPS
    assert all(session.shares[i] == 0 and set(session.trace[i]) == {BODY} for i in resting)
    running = [step for step in session.trace if step.get(BODY) == COMPUTE]
    assert {str(action) for step in running for action in step.values()} - {"compute"}
    assert out.isfinite().all()
    assert session.idle == []


def test_their_order_does_not_matter(prior: dict[str, Tensor]) -> None:
    (one, first), (other, second) = (play(name, prior, fields_of("pab")) for name in ("pab+sada", "sada+pab"))
    assert torch.equal(one, other) and first.digest() == second.digest()
    assert make_policy("sada+pab").name == make_policy("pab + sada").name == "pab+sada"


def test_over_one_that_computes_everything_it_is_the_other_alone(prior: dict[str, Tensor]) -> None:
    chain, together = play("delta_dit+sada", prior, {"delta_dit": {"interval": 1}, "sada": LOOSE})
    alone, apart = play("sada", prior, LOOSE)
    assert torch.equal(chain, alone)
    assert together.shares == apart.shares and together.reads == apart.reads


def test_under_one_that_never_rests_it_is_the_other_alone(prior: dict[str, Tensor]) -> None:
    chain, together = play("pab+fixed_linear", prior, {"fixed_linear": {"warmup": STEPS}})
    alone, apart = play("pab", prior, {})
    assert torch.equal(chain, alone)
    assert [{p: a for p, a in step.items() if p != BODY} for step in together.trace] == apart.trace
    assert together.idle == [f"fixed_linear: {reason}" for reason in ["everything was computed in every step"]]


@pytest.mark.parametrize("under", ["delta_dit", "elastic", "pab"])
def test_a_batch_gives_what_its_samples_give_alone(under: str, prior: dict[str, Tensor]) -> None:
    """Also where one sample rests and the other runs."""
    fields = fields_of(under, threshold=0.6, nodes="all")
    pair, together = play(f"{under}+sada", prior, fields, batch=2)
    alone = [play(f"{under}+sada", prior, fields, batch=2, only=[row]) for row in (0, 1)]
    assert {0 < share < 1 for share in together.shares} == {True, False}
    torch.testing.assert_close(pair, torch.cat([out for out, _ in alone]), atol=1e-4, rtol=1e-4)


def test_what_the_lower_one_degraded_is_told_to_the_upper_one(prior: dict[str, Tensor]) -> None:
    _, session = play("delta_dit+sada", prior, fields_of("delta_dit", threshold=1e-9, nodes="all"))
    marks = {round(node.at, 4): node.degraded for track in session.over.tracks for node in track.nodes}
    sigmas = [round(float(sigma), 4) for sigma in session.job.sigmas[0, :-1]]
    expected = [any(a != COMPUTE for place, a in step.items() if place != BODY) for step in session.trace]
    assert set(expected) == {True, False}
    assert marks == {at: flag for at, flag in zip(sigmas, expected, strict=True) if at in marks}


def test_whole_steps_alone_are_judged_by() -> None:
    rules = Rules(criterion="posterior", threshold=1.0, terms=2, max_run=4, reach=3.0, history=3, marked="apart")
    with_, without = Track(rules), Track(rules)
    for k, at in enumerate((1.0, 0.9, 0.8, 0.7, 0.6)):
        value = torch.full((4, 2, 2, 2), 1 + at**3)
        if k in (1, 3):
            with_.computed(at, value + 0.3, degraded=True)
            assert with_.pending is None or k == 3
        else:
            with_.computed(at, value)
            without.computed(at, value)
        assert with_.nodes[-1].at == at
    assert with_.pending is not None and without.pending is not None
    assert torch.equal(with_.pending, without.pending), "as if the degraded ones had not been"
    assert [node.degraded for node in with_.nodes] == [False, True, False]
    assert not torch.equal(with_.forecast(0.5), without.forecast(0.5)), "but they are extrapolated from"


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("nodes", ["all", "apart", "whole"])
def test_a_step_is_whole_after_so_many_that_are_not(nodes: str, every: int, prior: dict[str, Tensor]) -> None:
    fields = fields_of("elastic", threshold=1e-9, whole_every=every, nodes=nodes)
    _, session = play("elastic+sada", prior, fields)
    degraded = [any(a != COMPUTE for place, a in step.items() if place != BODY) for step in session.trace]
    assert degraded == [i > 0 and i % (every + 1) != 0 for i in range(STEPS)]


def test_it_extrapolates_from_whole_steps_only_if_there_are_any(prior: dict[str, Tensor]) -> None:
    nodes = lambda session: [node for track in session.over.tracks for node in track.nodes]  # noqa: E731
    _, session = play("delta_dit+sada", prior, fields_of("delta_dit"))
    assert nodes(session) and not any(node.degraded for node in nodes(session))
    _, routed = play("elastic+sada", prior, fields_of("elastic"))
    assert any(node.degraded for node in nodes(routed)), "routers leave something out of every step"
    _, told = play("elastic+sada", prior, fields_of("elastic", nodes="whole"))
    assert not any(node.degraded for node in nodes(told))
    _, alone = play("sada", prior, LOOSE)
    assert session.digest() != alone.digest()


@pytest.mark.parametrize("changed", [3, 6])
def test_nothing_old_is_served_after_a_change_of_the_latent(changed: int, prior: dict[str, Tensor]) -> None:
    _, session = play(
        "delta_dit+sada", prior, fields_of("delta_dit"), callback=lambda i, t, x: x + 0.1 if i == changed else x
    )
    assert all(action == COMPUTE for action in session.trace[changed + 1].values())


def test_soda_leaves_the_steps_to_the_other() -> None:
    chain = make_policy("soda+sada", soda={"flops_ratio": 1.5})
    assert isinstance(chain, Chain)
    assert (
        chain.model_dump()["soda"] | {"schedule": "modules", "rule": "reuse", "forecast": True}
        == chain.model_dump()["soda"]
    )
    told = make_policy("soda+sada", soda={"flops_ratio": 1.5, "rule": "value"})
    assert told.model_dump()["soda"]["rule"] == "value"
    over = make_policy("pab+soda")
    assert isinstance(over, Chain) and over.over.name == "soda" and over.model_dump()["soda"]["schedule"] == "network"


def test_an_action_counts_once(prior: dict[str, Tensor]) -> None:
    """A step that runs is told by what the lower method does in it, one that rests by the upper one."""
    _, session = play("fora+sada", prior, {"fora": {"slots": "trunk"}, "sada": LOOSE})
    assert sum(session.counts().values()) == STEPS
    assert session.counts()["forecast1"] == len(rested(session))


def test_it_tells_its_fields_by_method() -> None:
    chain = make_policy("delta_dit+sada", **{"sada.threshold": 0.1, "delta_dit": {"interval": 3}})
    dumped = chain.model_dump(mode="json")
    assert dumped["sada"]["threshold"] == 0.1 and dumped["delta_dit"]["interval"] == 3


def test_a_coarser_form_keeps_within_the_memory() -> None:
    model = tiny_stdit()
    chain = make_policy("fora+sada")
    job = make_job(model, steps=STEPS)
    free = fit(chain, job, frames=3, width=model.width)
    assert free.made_by == chain
    least = make_job(model, steps=STEPS, cache_memory=60_000)
    tight = fit(chain, least, frames=3, width=model.width)
    assert isinstance(tight.made_by, Chain) and tight.made_by.model_dump()["fora"]["slots"] == "trunk"
    with pytest.raises(ValueError, match=r"fora\+sada stores at least .* which is more than"):
        fit(chain, make_job(model, steps=STEPS, cache_memory=1000), frames=3, width=model.width)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("pab+fora", {}, "pab and fora cannot be combined: pab decides about what is inside steps, fora decides"),
        ("teacache+sada", {}, "teacache goes with no other"),
        ("sada+fixed_linear", {}, "sada decides about steps, fixed_linear decides about steps"),
        ("soda+sada", {"soda": {"schedule": "network"}}, "soda decides about steps"),
        ("pab+sada", {"sada": {"keep": 0.5}}, "sada goes with no other"),
        ("pab+sada+soda", {}, "a chain is two different methods, such as soda.sada, got 'pab.sada.soda'"),
        ("pab+pab", {}, "two different methods"),
        ("pab+sadda", {}, "unknown method 'sadda'; did you mean 'sada'"),
        ("pab+sada", {"threshold": 1}, "say whose, such as sada.threshold"),
        ("fora+sada", {"period": 2}, "say whose, such as fora.period"),
        ("sada", {"sada.threshold": 1}, "sada has no field 'sada.threshold': of a single method, fields go without"),
        ("pab+sada", {"soda": {"anchors": 1}}, "pab\\+sada has no method 'soda'"),
        ("pab+sada", {"sada": {"treshold": 1}}, "sada has no field 'treshold'"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(name, **fields)
