"""Delta-DiT: which span is served when, what that costs, and that nothing is wasted at the boundary."""

import math
from typing import Any

import pytest
import torch

from tests.models.image_networks import tiny_dit
from tests.models.latte_networks import tiny_latte
from tests.models.networks import tiny_stdit
from tests.policies.rollout import rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.policies.delta_dit import DeltaDiT, spans_of
from videoaccel.session.actions import Compute, Span


def decisions(session: Any) -> list[str]:
    """By step: ``full``, or the blocks that were served."""
    return [
        next((str(place) for place, action in step.items() if not isinstance(action, Compute)), "full")
        for step in session.trace
    ]


def stubs(layers: int, steps: int) -> list[Adds]:
    """Blocks of which number k adds ``10**k`` times the step."""
    return [Adds([10.0**k * (i + 1) for i in range(steps)]) for k in range(2 * layers)]


REAR, FRONT = "blocks.2-3", "blocks.0-1"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # Step 3 stores the rear span for step 4; at 5 the front one is not there: a full step, counted from there.
        ({"interval": 3}, ["full", REAR, REAR, "full", REAR, "full", FRONT, FRONT, "full", "full"]),
        # Step 4, full, stores the front span for step 5 at once.
        ({"interval": 2}, ["full", REAR, "full", REAR, "full", FRONT, "full", FRONT, "full", "full"]),
        ({"interval": 3, "warmup": 3}, ["full"] * 3 + [REAR, REAR, "full", FRONT, FRONT, "full", "full"]),
        ({"interval": 3, "boundary": 1}, ["full", REAR, REAR] * 3 + ["full"]),
        ({"interval": 3, "boundary": 0}, ["full", FRONT, FRONT] * 3 + ["full"]),
        ({"interval": 1}, ["full"] * 10),
        ({"interval": 4, "share": 0}, ["full"] * 10),
    ],
)
def test_decisions_by_hand(fields: dict[str, Any], expected: list[str]) -> None:
    session = DeltaDiT(**{"share": 0.5, "boundary": 0.5, **fields}).session(stub_job(10, layers=2))
    blocks = stubs(2, 10)
    outs = play(session, blocks, lambda i: 0.5 * i)
    assert decisions(session) == expected
    stored = dict.fromkeys((REAR, FRONT), math.nan)
    for i, what in enumerate(expected):
        added = {FRONT: 11.0 * (i + 1), REAR: 1100.0 * (i + 1)}
        if what != "full":
            added[what] = stored[what]
        else:
            stored = dict(added)
        assert outs[i] == pytest.approx(0.5 * i + sum(added.values()), rel=1e-6)
    assert sum(block.calls for block in blocks) == 4 * expected.count("full") + 2 * (10 - expected.count("full"))


def test_one_tensor_is_stored() -> None:
    job = stub_job(12, layers=3)
    session = DeltaDiT(share=0.67, interval=3, boundary=0.5).session(job)
    held = []
    play(session, stubs(3, 12), float, after=lambda i: held.append([str(place) for place in session.slots]))  # type: ignore[attr-defined]
    assert {len(names) for names in held} == {0, 1}
    assert held[0] == ["blocks.2-5"] and held[7] == ["blocks.0-3"] and held[-1] == []


@pytest.mark.parametrize("order", [0, 1])
def test_what_a_span_adds_is_extrapolated(order: int) -> None:
    session = DeltaDiT(share=0.5, interval=3, boundary=1, warmup=2, order=order).session(stub_job(9, layers=2))
    outs = play(session, stubs(2, 9), lambda i: 0.0)
    assert decisions(session) == ["full", "full", REAR, REAR, "full", REAR, REAR, "full", "full"]
    for i in (2, 3, 5, 6):
        full = 1 if i < 4 else 4
        assert outs[i] == pytest.approx(11.0 * (i + 1) + 1100.0 * (i + 1 if order else full + 1), rel=1e-5)


def test_the_gate_looks_at_the_stream_entering_the_span() -> None:
    """Relative to the last full step: .1 (serve), .3 (compute), .077 (serve), .15 (compute)."""
    stream = [1.0, 1.1, 1.3, 1.4, 1.5, 1.5, 1.5]
    session = DeltaDiT(share=0.5, interval=9, boundary=0, gate=0.12).session(stub_job(7, layers=2))
    play(session, stubs(2, 7), lambda i: stream[i])
    assert decisions(session) == ["full", FRONT, "full", FRONT, "full", FRONT, "full"]
    assert session.reads == [0, 1, 1, 1, 1, 1, 0]


def test_nan_and_one_sample_too_far_compute() -> None:
    session: Any = DeltaDiT(share=0.5, interval=9, gate=0.1).session(stub_job(6, layers=2, batch=2))
    session.begin(0)
    session._entry = torch.ones(2, 2, 4, 3)
    for bad in (1.2, math.nan):
        session.begin(1)
        x = torch.ones(2, 2, 4, 3)
        assert session._near(x)
        session.begin(2)
        x[1] *= bad
        assert not session._near(x)


def test_spans_are_whole_pairs_in_both_networks() -> None:
    assert spans_of(stub_job(4, layers=4), 0.5) == (Span(0, 4), Span(4, 8))
    assert spans_of(stub_job(4, layers=3), 0.5) == (Span(0, 4), Span(2, 6))
    assert spans_of(stub_job(4, layers=3), 1.0) == (Span(0, 6), Span(0, 6))
    _, session = rollout(DeltaDiT(share=0.5, interval=2), steps=8, model=tiny_latte(), size=(4, 8, 8))
    assert set(decisions(session)) >= {"full", REAR}


def test_spans_of_a_network_without_time_are_of_single_blocks() -> None:
    _, session = rollout(DeltaDiT(share=0.75, interval=2), steps=8, model=tiny_dit(num_layers=4), size=(1, 8, 8))
    assert spans_of(session.job, 0.75) == (Span(0, 3), Span(1, 4))
    served = [
        place
        for step in session.trace
        for place, action in step.items()
        if isinstance(place, Span) and str(action) == "reuse"
    ]
    assert set(served) == {Span(0, 3), Span(1, 4)}


@pytest.mark.parametrize("fields", [{"interval": 1}, {"interval": 4, "share": 0.0}, {"interval": 4, "gate": 0.0}])
def test_nothing_served_is_bit_identical(fields: dict[str, Any]) -> None:
    exact, _ = rollout(None, steps=6)
    out, session = rollout(DeltaDiT(**fields), steps=6)
    assert torch.equal(out, exact)
    assert session.peak_bytes == 0 or "gate" in fields


@pytest.mark.parametrize("fields", [{"order": 1}, {"gate": 0.5}, {"share": 1.0}])
def test_options_on_a_network(fields: dict[str, Any]) -> None:
    exact, _ = rollout(None, steps=12)
    out, session = rollout(DeltaDiT(**{"share": 0.5, "interval": 2, **fields}), steps=12)
    assert 0 < (out - exact).abs().mean() < exact.abs().mean()
    assert session.counts().keys() >= {"forecast1" if "order" in fields else "reuse"}


@pytest.mark.parametrize(
    ("layers", "steps", "fields", "published"),
    [
        (15, 50, {"interval": 2, "share": 12 / 30}, 0.799),  # CogVideoX-2B, 12 of 30 blocks
        (30, 50, {"interval": 3, "share": 24 / 60, "boundary": 24 / 50}, 1 / 1.36),  # HunyuanVideo, 24 of 60
        (28, 30, {"interval": 2, "share": 28 / 56}, 4.72 / 6.30),  # Open-Sora 1.2, 28 of 56
    ],
)
def test_published_shares_of_operations(layers: int, steps: int, fields: dict[str, Any], published: float) -> None:
    """They run the last step as any other; ours is full, which is up to 0.017 more at 30 steps. All blocks alike."""
    session = DeltaDiT(**fields).session(stub_job(steps, layers=layers))
    blocks = [Adds([0.0] * steps) for _ in range(2 * layers)]
    play(session, blocks, float)
    spent = sum(block.calls for block in blocks) / (2 * layers * steps)
    served = sum(what != "full" for what in decisions(session))
    assert spent == pytest.approx(1 - served / steps * fields["share"], abs=1e-9)
    assert spent == pytest.approx(published, abs=0.02)


def test_guidance_branches_and_samples_share_a_schedule() -> None:
    _, one = rollout(DeltaDiT(share=0.5), steps=8, guidance=1.0)
    _, many = rollout(DeltaDiT(share=0.5), steps=8, batch=3)
    assert decisions(one) == decisions(many)


def test_a_network_of_its_published_depth() -> None:
    _, session = rollout(DeltaDiT(share=0.25), steps=10, model=tiny_stdit(depth=4, hidden_size=16, num_heads=1))
    assert decisions(session)[1] == "blocks.6-7" and decisions(session)[7] == "blocks.0-1"


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="delta_dit with a warm-up of 3 needs at least 5 steps, got 4"):
        DeltaDiT(warmup=3).session(stub_job(4))
