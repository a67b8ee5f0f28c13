from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.models.seam import Site
from videoaccel.policies.fastercache import FasterCache, split_bands
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session

ALONE = [11, 12, 13, *range(15, 19), *range(20, 24), *range(25, 29)]
"""Steps, counted from 0, that run one branch: from the 12th on all but every 5th."""


def test_published_schedule() -> None:
    """Counted from 1: self-attention is served in even steps from 8 on, both branches run in steps 15, 20, 25, 30.

    Except where both branches run and one was computed later than the other: 20 and 30.
    """
    _, session = rollout(FasterCache(), steps=30)
    for axis in ("space", "time"):
        computed = computed_at(session, f"{axis}.1.attn")
        assert [c for c in range(1, 31) if c - 1 not in computed] == [*range(8, 20, 2), *range(22, 30, 2)]
        for kind in ("cross", "mlp"):
            assert computed_at(session, f"{axis}.1.{kind}") == [*range(30)]
    assert [i for i, share in enumerate(session.shares) if share == 0.5] == ALONE
    assert len(ALONE) == 15


def test_attention_is_extrapolated_from_the_last_two_computed() -> None:
    """Weighted by 0.9 * (step - 7) / 20, however far apart the two were."""
    name = Site("attn", "time", 1)
    computed: dict[int, Tensor] = {}
    served: dict[int, Tensor] = {}

    def make(job: Job, mix: Mix) -> Session:
        def record(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            delta = mix(site, branch, h, cond, **options)
            if site == name:
                computed[session.i + 1] = delta
            return delta

        session: Any = FasterCache().session(job, mix=record)
        inner = session._stored

        def stored(place: Any, action: Any) -> Tensor:
            value: Tensor = inner(place, action)
            if place == name:
                served[session.i + 1] = value
            return value

        session._stored = stored
        return session  # type: ignore[no-any-return]

    rollout(make, steps=30, batch=2)
    for c, last, before in [(8, 7, 6), (10, 9, 7), (14, 13, 11), (18, 17, 15), (22, 21, 20), (24, 23, 21)]:
        rows = slice(0, 2) if c > 11 else slice(0, 4)
        a1, a0 = computed[last][rows], computed[before][rows]
        torch.testing.assert_close(served[c], a1 + (a1 - a0) * 0.9 * (c - 7) / 20)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1))
def test_bands_sum_up_to_the_whole(height: int, width: int, radius: float) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height * 16 + width))
    low, high = split_bands(x, radius)
    torch.testing.assert_close(low + high, x, atol=1e-5, rtol=1e-5)
    # The mean is the lowest frequency of all.
    torch.testing.assert_close(low.mean((-2, -1)), x.mean((-2, -1)), atol=1e-5, rtol=1e-5)
    again = split_bands(low, radius)[0]
    torch.testing.assert_close(again, low, atol=1e-4, rtol=1e-4)


def test_the_low_band_is_a_disc_around_frequency_zero() -> None:
    """10 x 15: radius 2. A wave of frequency (1, 1) is low, one of (2, 1) is high, as is a checkerboard."""
    rows, columns = torch.arange(10.0)[:, None] / 10, torch.arange(15.0) / 15
    for fy, fx, low in [(0, 0, True), (1, 1, True), (0, 2, True), (2, 1, False), (0, 3, False), (5, 0, False)]:
        wave = torch.cos(2 * torch.pi * (fy * rows + fx * columns))
        torch.testing.assert_close(split_bands(wave, 0.2)[0], wave if low else 0 * wave, atol=1e-5, rtol=0)


CONSTANT = torch.ones(1, 4, 3, 10, 10)
CHECKERS = CONSTANT * (-1.0) ** (torch.arange(10)[:, None] + torch.arange(10))


@pytest.mark.parametrize(
    ("difference", "grows"),
    [(CONSTANT, lambda c: c <= 25), (CHECKERS, lambda c: c >= 20)],
    ids=["low", "high"],
)
def test_bands_grow_with_every_step_that_runs_one_branch(difference: Tensor, grows: Any) -> None:
    """The unconditional branch is the conditional one plus the amplified difference of the last full step."""
    session = FasterCache().session(stub_job(30, guidance=7.0))
    expected = 1.0
    for c in range(1, 31):
        cond = torch.full_like(difference, float(c))

        def call(rows: Any = None, branches: Sequence[str] | None = None, cond: Tensor = cond) -> dict[str, Tensor]:
            both = {"cond": cond, "uncond": cond + difference}
            return {name: both[name] for name in branches or both}

        out = session.predict(c - 1, torch.zeros_like(difference), call)
        if c <= 11 or c % 5 == 0:
            expected = 1.0
        elif grows(c):
            expected *= 1.15
        torch.testing.assert_close(out["uncond"], cond + expected * difference, atol=1e-4, rtol=1e-5)
        assert torch.equal(out["cond"], cond)
    assert session.shares.count(0.5) == 15


def test_without_guidance_only_attention_is_served() -> None:
    _, session = rollout(FasterCache(), steps=30, guidance=1.0)
    assert session.shares == [1.0] * 30 and session.counts()["forecast1"] == 12 * 4


def test_a_changed_latent_runs_both_branches() -> None:
    _, session = rollout(FasterCache(), steps=30, callback=lambda i, t, x: x + 0.01 if i == 16 else x)
    assert session.shares[15:19] == [0.5, 0.5, 1.0, 0.5]
    assert 17 in computed_at(session, "space.0.attn")


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="fastercache needs at least 3 steps, got 2"):
        FasterCache().session(stub_job(2))
    job = stub_job(30, guidance=4.0)
    object.__setattr__(job, "branches", ("cond",))
    with pytest.raises(ValueError, match="fastercache needs both guidance branches on one rank, got cond"):
        FasterCache().session(job)
