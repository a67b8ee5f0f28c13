import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.policies.rollout import computed_at, measure, rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.policies.teacache import PUBLISHED, TeaCache, fit
from videoaccel.session.policy import Session

TRUNK = "blocks.0-1"


def published(x: float) -> float:
    return sum(c * x**power for power, c in enumerate(PUBLISHED))


def made(batch: int = 1, **fields: Any) -> Any:
    return TeaCache(constants="published", **fields).session(stub_job(30, batch=batch))


def test_the_published_polynomial_is_evaluated_with_its_highest_power_last() -> None:
    """By hand at 0.1: 0.0484426 - 0.00459364 + 0.26866 - 0.118329 + 0.0217546."""
    assert published(0.1) == pytest.approx(0.2159346, abs=1e-6)
    assert made().expected(0.1) == pytest.approx(0.2159346, abs=1e-6)


def test_expected_changes_add_up_to_the_threshold() -> None:
    """P(0.05) = 0.09988: two steps make 0.1998, the third is due."""
    session = made(threshold=0.2)
    assert [session.due([0.05]) for _ in range(3)] == [False, False, True]


def test_a_constant_change_gives_a_constant_period() -> None:
    """The stream grows by 5 % a step: steps 1 and 2 are served, 3 is computed, and so on; the last always."""
    session = TeaCache(constants="published", threshold=0.2).session(stub_job(12))
    outs = play(session, [Adds([1.0 * i for i in range(12)]), Adds([0.0] * 12)], lambda i: 1.05**i)
    assert computed_at(session, TRUNK) == [0, 3, 6, 9, 11]
    assert outs == pytest.approx([1.05**i + [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 11][i] for i in range(12)], rel=1e-5)
    assert session.reads == [0, *[1] * 10, 0]


def test_one_sample_that_changes_is_enough() -> None:
    session = made(batch=2, threshold=0.2)
    assert not session.due([0.05, 0.0])
    assert session.due([0.0, 0.1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_mean_compute(bad: float) -> None:
    assert made(batch=2).due([0.0, bad])


def test_the_fit_finds_a_polynomial_and_stays_in_its_range() -> None:
    x = np.linspace(0.05, 0.4, 20)
    expected = fit(x, np.array([published(value) for value in x]), 4)
    assert expected(0.222) == pytest.approx(published(0.222), abs=1e-8)
    assert expected(9.0) == pytest.approx(published(0.4), abs=1e-8)
    assert fit(x, -x, 1)(0.3) == 0.0, "never less than no change"


def test_the_probe_measures_relative_changes_from_step_to_step() -> None:
    seen: dict[str, list[Tensor]] = {"probe": [], "output": []}

    class Watch(Session):
        def run(self, site: Any, branch: Any, x: Tensor, cond: Any) -> Tensor:
            if str(site) == "space.0.block":
                self.entry = x
                seen["probe"].append(branch.attn.pre(x, branch.localise(cond)))
            out = super().run(site, branch, x, cond)
            if str(site) == "time.1.block":
                seen["output"].append(out - self.entry)
            return out

    rollout(lambda job, mix: Watch(job, mix=mix), steps=4, batch=2, only=[1])
    tables = measure("teacache", steps=4, batch=2, only=[1])
    for name, values in seen.items():
        changes = [((new - old).abs().mean() / old.abs().mean()).item() for old, new in pairwise(values)]
        torch.testing.assert_close(tables[f"teacache.{name}"], torch.tensor([changes[0], *changes]))


def test_what_is_measured_is_used() -> None:
    prior = measure("teacache", steps=12, batch=2)
    _, slow = rollout(TeaCache(threshold=0.01), steps=12, prior=prior)
    _, fast = rollout(TeaCache(threshold=1.0), steps=12, prior=prior)
    assert slow.counts() == {"compute": 12}
    mean = prior["teacache.output"][1:].mean().item()
    expected = 12 / math.ceil(1.0 / mean)
    assert fast.counts()["compute"] == pytest.approx(expected, abs=2)


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"no table 'teacache.probe'.*videoaccel calibrate.*'published'"):
        TeaCache().session(stub_job(30))
    with pytest.raises(ValueError, match="degree 4 needs at least 6 steps, got 5"):
        TeaCache().session(stub_job(5))
    tables = {"teacache.probe": torch.rand(20), "teacache.output": torch.rand(20)}
    with pytest.raises(ValueError, match="measured with 20 steps, here are 30"):
        TeaCache().session(stub_job(30, prior=tables))
