import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.policies.rollout import computed_at, measure, rollout
from tests.policies.stubs import stub_job
from videoaccel.policies.adacache import (
    THRESHOLDS,
    AdaCache,
    computed_steps,
    fitted_thresholds,
    interval,
    intervals,
    watched_site,
)
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session

TRUNK = "blocks.0-3"


def test_published_codebooks() -> None:
    assert intervals(6, 30) == [6, 5, 4, 3, 2, 1]
    assert intervals(3, 30) == [3, 2, 1, 1, 1, 1]
    assert intervals(6, 60) == [12, 10, 8, 6, 4, 2]
    assert intervals(6, 10) == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("distance", "length"),
    [(0.0, 6), (0.079, 6), (0.08, 5), (0.2, 4), (0.3, 3), (0.39, 2), (0.4, 1), (9.0, 1), (math.nan, 1)],
)
def test_the_codebook(distance: float, length: int) -> None:
    assert interval(distance, THRESHOLDS, intervals(6, 30)) == length


def with_distances(found: list[float], **fields: Any) -> Any:
    """A session in which all distances are given."""

    def make(job: Job, mix: Mix) -> Session:
        session = AdaCache(constants="published", **fields).session(job, mix=mix)
        session.distances = lambda numbers: found  # type: ignore[attr-defined]
        return session

    return make


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0.1], [0, 1, 6, 11, 16, 21, 26, 28, 29]),
        ([0.35], [0, *range(1, 28, 2), 28, 29]),
        ([0.1, 0.5], [*range(30)]),
        ([0.1, math.nan], [*range(30)]),
    ],
)
def test_intervals_follow_from_distances(distances: list[float], expected: list[int]) -> None:
    """No distance is known after the first step; the last two are always computed; the worst sample counts."""
    _, session = rollout(with_distances(distances), steps=30)
    assert computed_at(session, TRUNK) == expected
    assert computed_steps([distances[0]] * 30, THRESHOLDS, intervals(6, 30)) == len(expected) or len(distances) > 1
    assert max(session.reads) == 1


def test_the_distance_is_per_step_and_includes_the_gate() -> None:
    """The sums brought to the host are those of the watched attention's gated outputs, then divided by the gap."""
    gated: dict[int, Tensor] = {}
    sums: dict[int, list[float]] = {}

    def make(job: Job, mix: Mix) -> Session:
        def record(site: Any, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            delta = mix(site, branch, h, cond, **options)
            if str(site) == "time.1.attn":
                gated[session.i] = branch.add(torch.zeros_like(delta), delta, cond)
            return delta

        session: Any = AdaCache(constants="published", fastest=3).session(job, mix=record)
        inner = session.distances

        def distances(numbers: list[float]) -> list[float]:
            sums[session.i] = inner(numbers)
            return [0.0]

        session.distances = distances
        return session

    _, session = rollout(make, steps=30)
    steps = computed_at(session, TRUNK)
    assert steps[:4] == [0, 1, 4, 7]
    change = (gated[4] - gated[1]).abs().sum() / gated[1].abs().sum() / 3
    assert sums[5] == pytest.approx([change.item()], rel=1e-5)


def test_motion_makes_it_careful_where_it_grows() -> None:
    session: Any = AdaCache(constants="published", motion=True).session(stub_job(30))
    session.last, session.gap = 10, 2
    assert session.distances([0.2, 1.0, 0.385, 1.0]) == pytest.approx([0.1])
    moved = (0.4 / 0.385) ** 8
    assert session.distances([0.2, 1.0, 0.4, 1.0]) == pytest.approx([0.1 * (moved + 10 * (moved - 1) / 2)])
    session.last = 3
    assert session.distances([0.2, 1.0, 0.1, 1.0]) == pytest.approx([0.1]), "not in the first steps"


def test_motion_is_measured() -> None:
    _, still = rollout(AdaCache(constants="published"), steps=30)
    _, moving = rollout(AdaCache(constants="published", motion=True), steps=30)
    assert still.digest() != moving.digest()


def miss(changes: list[float], thresholds: list[float]) -> float:
    """Steps by which the fast codebook misses 0.412 of them and the slow one 0.68."""
    counts = [computed_steps(changes, thresholds, intervals(fastest, len(changes))) for fastest in (6, 3)]
    return abs(counts[0] - 0.41234 * len(changes)) + abs(counts[1] - 0.67967 * len(changes))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 2.0), min_size=5, max_size=30))
def test_fitted_thresholds_come_closest_to_the_published_shares(changes: list[float]) -> None:
    fitted = fitted_thresholds(changes)
    assert [b - a for a, b in pairwise(fitted)] == pytest.approx([(fitted[4] - fitted[0]) / 4] * 4)
    for scale in (0.03, 0.1, 0.3, 1.0, 3.0):
        # Ends at other than measured changes may do a little better.
        assert miss(changes, fitted) <= miss(changes, [scale * t for t in THRESHOLDS]) + 2


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_fitted_thresholds_suit_changes_of_any_size_and_spread(spread: float) -> None:
    """Where hardly anything differs from step to step, too, both codebooks find something to serve."""
    changes = [0.1 + 0.001 * i + spread * abs(i - 12) / 12 for i in range(30)]
    assert fitted_thresholds([7 * change for change in changes]) == pytest.approx(
        [7 * threshold for threshold in fitted_thresholds(changes)]
    )
    fast, slow = (computed_steps(changes, fitted_thresholds(changes), intervals(f, 30)) for f in (6, 3))
    assert abs(fast - 12.4) <= 3 and abs(slow - 20.4) <= 3


def test_the_probe_measures_the_watched_attention() -> None:
    table = measure("adacache", steps=5, batch=2, only=[1])["adacache.distance"]
    seen: list[Tensor] = []

    def record(site: Any, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
        delta = branch.mix(h, cond, **options)
        if str(site) == "time.1.attn":
            seen.append(branch.add(torch.zeros_like(delta), delta, cond))
        return delta

    rollout(lambda job, mix: Session(job, mix=mix), steps=5, batch=2, only=[1], mix=record)
    changes = [((new - old).abs().sum() / old.abs().sum()).item() for old, new in pairwise(seen)]
    torch.testing.assert_close(table, torch.tensor([changes[0], *changes]))


def test_the_watched_block_is_layer_13_of_28() -> None:
    assert str(watched_site(stub_job(30, layers=28))) == "time.13.attn"


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"no table 'adacache.distance'.*videoaccel calibrate"):
        AdaCache().session(stub_job(30))
    with pytest.raises(ValueError, match="adacache needs at least 5 steps, got 4"):
        AdaCache().session(stub_job(4))
