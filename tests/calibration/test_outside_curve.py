"""Which plan is taken of a pipeline that is not ours: forecasts, or outputs held, by what generations kept."""

import math
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from videoaccel.adapters.curves import for_course
from videoaccel.adapters.methods import schedule_of
from videoaccel.calibration import outside_curve
from videoaccel.calibration.outside_curve import (
    FEWER,
    HELD_WAY,
    WAYS,
    Known,
    candidates,
    drawn,
    kept_tables,
    ladder,
    psnr,
    ranks,
)
from videoaccel.planning.fitted import PLAIN, Fitted, evenly, held, instead, late
from videoaccel.planning.forecast_errors import AGES, ORDERS
from videoaccel.planning.prior import Prior
from videoaccel.policies.soda import Soda

N = 20


def errors() -> dict[str, Tensor]:
    """Tables of a generation whose lines err less than what is held."""
    velocity = torch.full((N, ORDERS, AGES), math.inf)
    for i in range(N):
        for age in range(1, min(AGES, i) + 1):
            velocity[i, :, age - 1] = torch.tensor([1.0, 0.1, 0.5, 0.5]) * age**2
    others = {"lemica.error": velocity[:, 0], "magcache.ratio": torch.ones(N)}
    return {"soda.velocity": velocity, **others, "component": torch.zeros(N), "levels": torch.linspace(1, 0.05, N)}


def rows(*kept: float) -> Tensor:
    found = torch.full((N, len(WAYS)), math.nan)
    for calls in ladder(N):
        found[calls - 1, : len(kept)] = torch.tensor(kept) + calls
    return found


def test_outputs_are_held_where_that_kept_more() -> None:
    tables = errors() | kept_tables([rows(20.0, 30.0), rows(22.0, 30.0)], N)
    steps = schedule_of(Soda(flops_ratio=2.0))(tables, N)
    assert steps == [{i - 1: 1.0} if i % 2 else None for i in range(N)]
    assert tables["soda.psnr"][9] == 40.0 and tables["soda.psnr"][10].isnan()
    assert tables["soda.fitted.quality"][9, :, 1].tolist() == [30.0, 40.0], "the worst generation's"
    steps = schedule_of(Soda(min_psnr=36.5))(tables, N)
    assert sum(step is None for step in steps) == 8, "the fewest calls that kept it"


def test_lines_are_taken_where_they_kept_more() -> None:
    tables = errors() | kept_tables([rows(31.0, 30.0)], N)
    steps = schedule_of(Soda(flops_ratio=2.0))(tables, N)
    assert 1 in steps and not any(isinstance(step, dict) for step in steps)
    assert tables["soda.psnr"][9] == 41.0


def lines() -> dict[int, list[Fitted]]:
    """Coefficients that were fitted, of every budget, at evenly spaced anchors and at others."""

    def fits(calls: int) -> list[Fitted]:
        others = (0, *(mark + 1 for mark in evenly(calls, N)[1:-1]), N - 1)
        sets = evenly(calls, N), late(calls, N), others
        return [Fitted(marks, ((1.0,), *[(1.5, -0.5)] * (calls - 1))) for marks in sets]

    return {calls: fits(calls) for calls in ladder(N)}


def test_fitted_steps_are_taken_where_they_kept_most() -> None:
    fitted = lines()
    tables = errors() | kept_tables([rows(20.0, 30.0, 35.0)], N, fitted)
    steps = schedule_of(Soda(flops_ratio=2.0))(tables, N)
    assert steps[3] == {2: 1.5, 0: -0.5} and tables["soda.psnr"][9] == 45.0
    worse = errors() | kept_tables([rows(20.0, 30.0, 25.0)], N, fitted)
    assert schedule_of(Soda(flops_ratio=2.0))(worse, N)[3] == {2: 1.0}
    other = errors() | kept_tables([rows(20.0, 30.0, 35.0, 30.0, 20.0), rows(20.0, 30.0, 35.0, 30.0, 60.0)], N, fitted)
    steps = schedule_of(Soda(flops_ratio=2.0))(other, N)
    assert steps[4] == {3: 1.5, 0: -0.5}, "of the fits the one that kept more of generations that it was not made of"
    assert other["soda.psnr"][9] == 50.0


def test_fewer_calls_are_preferred_only_beyond_chance() -> None:
    kept = torch.full((4, 5, 2), math.nan)
    kept[:, 1, 0] = torch.tensor([30.0, 40.0, 50.0, 40.0])
    kept[:, 2, 1] = torch.tensor([20.0, 45.0, 45.0, 45.0])  # less on average, but not clip by clip
    kept[:, 3, 0] = torch.tensor([25.0, 30.0, 40.0, 30.0])  # less of every clip
    found = ranks(kept)
    assert found[2, 1] > found[1, 0] == 40.0 and found[3, 0] == kept[:, 3, 0].mean() < found[2, 1]
    tables = errors() | kept_tables([rows(20.0, 30.0)], N)
    assert sum(step is None for step in schedule_of(Soda(flops_ratio=1.25))(tables, N)) == 16


def test_fewer_steps_are_told_and_not_taken() -> None:
    tables = errors() | kept_tables([rows(20.0, 30.0, 25.0, 25.0, 25.0, 33.0)], N, lines())
    assert schedule_of(Soda(flops_ratio=2.0))(tables, N)[3] == {2: 1.0} and tables["soda.psnr"][9] == 40.0
    told = instead(tables, 10, steps=N)
    assert told is not None and told.more
    assert str(told).startswith("10 plain steps kept 43.0 dB of the same clips, more than this plan")
    worse = errors() | kept_tables([rows(20.0, 30.0, 25.0, 25.0, 25.0, 29.0)], N, lines())
    assert str(instead(worse, 10, steps=N)) == "10 plain steps kept 39.0 dB of the same clips"
    fewer = {**worse, PLAIN: worse[PLAIN].clone()}
    fewer[PLAIN][7, 0] = 50.0
    assert str(instead(fewer, 10, steps=N)).startswith("8 plain steps kept 50.0 dB"), "fewer can be better still"
    for calls, steps in ((11, N), (10, N + 1), (0, N)):
        assert instead(worse, calls, steps=steps) is None, "not measured"


@pytest.mark.parametrize("way", [WAYS[HELD_WAY], WAYS[FEWER]])
def test_only_plain_steps_may_fail(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline may refuse fewer steps; what goes wrong under a plan is not passed over."""

    def broken() -> Any:
        raise ValueError("so few steps")

    monkeypatch.setattr(outside_curve, "_rules", lambda *_: {way: object()})
    monkeypatch.setattr(outside_curve, "attach", lambda *_, **__: nullcontext(SimpleNamespace(computed=[])))
    prior = Prior({}, errors(), {})
    known = {3: Known(lambda: {}, torch.zeros(1))}
    fails = nullcontext() if way == WAYS[FEWER] else pytest.raises(ValueError, match="so few steps")
    with fails:
        assert drawn(broken, prior, known, {}, lambda *_: None)[3].isnan().all()


def course(count: int) -> Any:
    return SimpleNamespace(sigmas=torch.linspace(1, 0.05, count).tolist(), times=())


def test_outputs_are_held_at_another_number_of_steps_where_that_kept_more() -> None:
    fitted = lines()
    for kept, step in (((20.0, 30.0, 35.0), {2: 1.0}), ((31.0, 30.0, 35.0), 1)):
        tables = errors() | kept_tables([rows(*kept)], N, fitted)
        here = for_course(tables, course(30))
        steps = schedule_of(Soda(flops_ratio=2.0))(here, 30)
        assert sum(one is None for one in steps) == 15
        assert step in steps, "coefficients of 20 evaluations are of no use at 30"
        assert not any(isinstance(one, dict) and len(one) > 1 for one in steps)
        with pytest.raises(ValueError, match="another number of steps"):
            schedule_of(Soda(min_psnr=36.5))(here, 30)


def test_what_can_be_generated() -> None:
    assert set(candidates(errors(), 10, one_network=False)) == {"forecasts"}
    assert set(candidates(errors(), 2, one_network=False)) == set(), "no forecast reaches so far"
    assert set(candidates(errors(), 10, one_network=True)) == {"forecasts", "held"}
    assert set(candidates(errors(), 10, one_network=True, fitted=lines()[10])) == set(WAYS[:FEWER])
    assert set(candidates(errors(), 10, one_network=True, fitted=lines()[10][:1])) == set(WAYS[:3])
    for calls in range(2, N):
        fit = held(calls, N)
        assert len(fit.anchors) == calls == len(fit.weights) and fit.anchors[0] == 0
        marks = late(calls, N)
        assert len({*marks}) == calls and [*marks] == sorted(marks) and (marks[0], marks[-1]) == (0, N - 1)
        assert [w == () for w in fit.weights] == [b == a + 1 for a, b in pairwise((*fit.anchors, N))]


def test_no_budget_has_more_calls_than_its_ratio_leaves() -> None:
    for count in range(8, 120):
        for ratio in (1.25, 1.5, 2.0, 2.5, 3.0, 4.0):
            most = int(count / ratio)
            assert most in ladder(count) or most < 2


def test_decibels() -> None:
    exact = torch.linspace(0, 1, 100)
    assert psnr(exact + 0.1, exact) == pytest.approx(20.0, abs=1e-4)
    assert psnr(10 * exact - 4, 10 * exact - 5) == pytest.approx(20.0, abs=1e-4), "the range is 10"
