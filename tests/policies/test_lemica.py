import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.policies.lemica import LeMiCa, minimax_path


def worst_first(path: list[int], errors: list[list[float]]) -> list[float]:
    ends = [*path[1:], len(errors)]
    edges = [errors[i][j - i - 1] if j - i - 1 < len(errors[i]) else math.inf for i, j in zip(path, ends, strict=True)]
    return sorted(edges, reverse=True)


@st.composite
def tables(draw: st.DrawFn) -> list[list[float]]:
    steps, gaps = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    # Few values, so that ties are frequent.
    value = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])
    return draw(st.lists(st.lists(value, min_size=gaps, max_size=gaps), min_size=steps, max_size=steps))


@given(tables(), st.integers(1, 8))
def test_no_other_schedule_is_better(errors: list[list[float]], budget: int) -> None:
    steps = len(errors)
    every = [[0, *rest] for rest in combinations(range(1, steps), budget - 1)]
    best = min((worst_first(path, errors) for path in every), default=[math.inf])
    if math.isinf(best[0]):
        with pytest.raises(ValueError, match="no schedule computes"):
            minimax_path(errors, budget)
        return
    path = minimax_path(errors, budget)
    assert len(path) == budget and path[0] == 0
    assert worst_first(path, errors) == best


def test_the_largest_error_counts_before_the_sum() -> None:
    """4 steps, 2 computed: {0, 1} makes 0 and 4, {0, 2} makes 3 and 3, {0, 3} makes 9 and 0."""
    nan = math.nan
    errors = [[0.0, 3.0, 9.0], [0.0, 1.0, 4.0], [0.0, 3.0, nan], [0.0, nan, nan]]
    assert minimax_path(errors, 2) == [0, 2]


def test_what_was_not_measured_is_not_used() -> None:
    errors = [[0.0, math.nan], [0.0, 1.0], [0.0, math.inf]]
    assert minimax_path(errors, 2) == [0, 1]


def test_it_computes_its_budget() -> None:
    table = torch.rand(30, 9, generator=torch.Generator().manual_seed(0))
    for budget in LeMiCa.sweep:
        _, session = rollout(LeMiCa(budget=budget), steps=30, prior={"lemica.error": table})
        assert computed_at(session, "blocks.0-3") == minimax_path(table.double().tolist(), budget)
        assert len(computed_at(session, "blocks.0-3")) == budget


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"no table 'lemica.error'.*videoaccel calibrate`$"):
        LeMiCa().session(stub_job(30))
    with pytest.raises(ValueError, match="budget of 12 needs at least 12 steps, got 6"):
        LeMiCa().session(stub_job(6))
    with pytest.raises(ValueError, match="no schedule computes 3 of 30 steps with gaps of at most 4"):
        LeMiCa(budget=3).session(stub_job(30, prior={"lemica.error": torch.rand(30, 4)}))
