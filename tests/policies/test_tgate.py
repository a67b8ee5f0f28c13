from typing import Any

import pytest
import torch
from torch import Tensor

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.models.seam import Site
from videoaccel.policies.tgate import TGate
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session


def test_published_schedule() -> None:
    """Gate at 12 of 30, self-attention every second step before it and always after it."""
    _, session = rollout(TGate(), steps=30)
    for site in ("space.0", "time.1"):
        assert computed_at(session, f"{site}.cross") == [*range(12)]
        assert computed_at(session, f"{site}.attn") == [0, 1, 2, 4, 6, 8, 10, 11, *range(12, 30)]
        assert computed_at(session, f"{site}.mlp") == [*range(30)]
    assert session.shares == [1.0] * 12 + [0.5] * 18


def test_the_schedule_before_the_gate_for_images() -> None:
    """PixArt: 25 steps, gate 15, every third step; the last step before the gate is computed whole."""
    _, session = rollout(TGate(gate=15 / 25, period=3), steps=25)
    assert computed_at(session, "space.0.attn") == [0, 1, 2, 3, 6, 9, 12, 14, *range(15, 25)]


def test_served_outputs_are_the_mean_of_both_branches() -> None:
    """Also where a sample's rows are not next to each other: two samples."""
    computed: dict[int, Tensor] = {}
    served: list[Tensor] = []
    name = Site("cross", "time", 1)

    def make(job: Job, mix: Mix) -> Session:
        def record(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            delta = mix(site, branch, h, cond, **options)
            if site == name:
                computed[session.i] = delta
            return delta

        session: Any = TGate().session(job, mix=record)
        inner = session._stored

        def stored(place: Any, action: Any) -> Tensor:
            value: Tensor = inner(place, action)
            if place == name:
                served.append(value)
            return value

        session._stored = stored
        return session  # type: ignore[no-any-return]

    rollout(make, steps=10, batch=2)
    assert [*computed] == [0, 1, 2, 3]
    mean = (computed[3][:2] + computed[3][2:]) / 2
    assert len(served) == 6
    for value in served:
        torch.testing.assert_close(value, mean)


def test_guidance_is_dropped_at_the_gate() -> None:
    velocities: list[Any] = []

    def make(job: Job, mix: Mix) -> Session:
        session: Any = TGate().session(job, mix=mix)
        inner = session.predict

        def predict(i: int, x: Tensor, call: Any) -> Any:
            velocities.append(inner(i, x, call))
            return velocities[-1]

        session.predict = predict
        return session  # type: ignore[no-any-return]

    rollout(make, steps=10)
    assert [torch.equal(v["cond"], v["uncond"]) for v in velocities] == [False] * 4 + [True] * 6


def test_without_guidance_only_attention_is_served() -> None:
    _, session = rollout(TGate(), steps=30, guidance=1.0)
    assert session.shares == [1.0] * 30
    assert computed_at(session, "space.0.cross") == [*range(12)]


def test_self_attention_may_be_served_late() -> None:
    _, session = rollout(TGate(late_period=4), steps=30)
    assert [i for i in computed_at(session, "space.0.attn") if i >= 12] == [12, 16, 20, 24, 28]


def test_a_changed_latent_is_computed_by_the_branch_that_runs() -> None:
    _, session = rollout(TGate(), steps=30, callback=lambda i, t, x: x + 0.01 if i == 20 else x)
    assert computed_at(session, "space.0.cross") == [*range(12), 21]


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="tgate needs at least 2 steps, got 1"):
        TGate().session(stub_job(1))
    job = stub_job(30, guidance=4.0)
    object.__setattr__(job, "branches", ("uncond",))
    with pytest.raises(ValueError, match="tgate needs both guidance branches on one rank, got uncond"):
        TGate().session(job)
