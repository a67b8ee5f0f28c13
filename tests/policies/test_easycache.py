"""EasyCache: decisions against arithmetic by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.policies.easycache import EasyCache, foretold
from videoaccel.session.job import Velocities
from videoaccel.session.policy import Session

X = [10.0, 9.0, 8.0, 7.5, 7.0, 6.5, 6.0]
OUT = [4.0, 5.0, 5.2, 5.3, 5.5, 5.6, 5.9]


def play(session: Any, xs: Sequence[Any], outs: Sequence[Any], *, disturbed: int = -1) -> list[list[float]]:
    """Take a session through all steps; what it returns of the one branch."""
    found = []
    for i, (x, out) in enumerate(zip(xs, outs, strict=True)):

        def call(out: Any = out, **_: Any) -> Velocities:
            return {"cond": torch.as_tensor(out).reshape(-1, 1)}

        if i == disturbed:
            session.disturb()
        found.append(session.predict(i, torch.as_tensor(x).reshape(-1, 1), call)["cond"].flatten().tolist())
    return found


def test_decisions_and_outputs_by_hand() -> None:
    """After steps 0 and 1 the rate is 1 / 1. Step 2: 1 * 1 / 5 = .2, served. Step 3: + 1 * .5 / 5 = .3, computed.

    Now the rate is |5.3 - 5| / |7.5 - 9| = .2. Step 4: .2 * .5 / 5.3 = .0189, step 5: .0377, both served.
    """
    session = EasyCache(threshold=0.25, warmup=2).session(stub_job(7))
    outs = play(session, X, OUT)
    assert computed_at(session, "body") == [0, 1, 3, 6]
    served = {2: 8.0 + (5.0 - 9.0), 4: 7.0 + (5.3 - 7.5), 5: 6.5 + (5.3 - 7.5)}
    assert [out[0] for out in outs] == pytest.approx([served.get(i, OUT[i]) for i in range(7)], rel=1e-6)
    assert session.reads == [0, 0, 1, 1, 1, 1, 0], "the last step needs no decision"
    assert session.shares == [1, 1, 0, 1, 0, 0, 1]


def test_the_warm_up_and_the_last_step_are_computed() -> None:
    session = EasyCache(threshold=99, warmup=4).session(stub_job(7))
    play(session, X, OUT)
    assert computed_at(session, "body") == [0, 1, 2, 3, 6]


def test_one_sample_that_is_due_is_enough() -> None:
    """The second sample stands still but for its output, of which nothing can be foretold."""
    session = EasyCache(threshold=99, warmup=2).session(stub_job(5, batch=2))
    play(session, [[x, 3.0] for x in X[:5]], [[out, out] for out in OUT[:5]])
    assert computed_at(session, "body") == list(range(5))
    assert foretold([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [2.0, 2.0]) == [0.5, math.inf]
    assert foretold([math.nan], [1.0], [1.0], [2.0]) == [math.inf]


def test_a_changed_latent_is_computed_until_there_is_a_rate() -> None:
    session = EasyCache(threshold=99, warmup=2).session(stub_job(7))
    play(session, X, OUT, disturbed=3)
    assert computed_at(session, "body") == [0, 1, 3, 4, 6]
    mask = torch.ones(7, 1, 1)
    mask[3:] = 0
    session = EasyCache(threshold=99, warmup=2).session(replace(stub_job(7), x_mask=mask))
    play(session, X, OUT)
    assert computed_at(session, "body") == [0, 1, 3, 4, 6]


def test_on_a_network() -> None:
    exact, _ = rollout(None, steps=12)
    found, session = rollout(EasyCache(threshold=0.5, warmup=3), steps=12)
    computed = computed_at(session, "body")
    assert computed[:3] == [0, 1, 2] and computed[-1] == 11 and len(computed) < 12
    assert sum(session.shares) == len(computed) and torch.isfinite(found).all() and not torch.equal(found, exact)
    assert session.cache_bytes > 0


def test_off_gives_the_bits_of_a_plain_run() -> None:
    exact, _ = rollout(lambda job, mix: Session(job, mix=mix), steps=8)
    found, session = rollout(EasyCache(threshold=0.0), steps=8)
    assert torch.equal(found, exact) and session.idle


def test_the_change_is_taken_over_what_the_network_said_last() -> None:
    """Not over what was served since: by hand, after steps 0, 1 and 3 the output is 5.3, and 4 and 5 are served.

    Step 5 adds .2 * .5 / 5.3 to step 4's, whatever 4.8, which was served in 4, would make of it.
    """
    session: Any = EasyCache(threshold=0.25, warmup=2).session(stub_job(7))
    totals: list[float] = []
    for i, (x, out) in enumerate(zip(X[:6], OUT[:6], strict=True)):
        said = {"cond": torch.tensor([[out]])}
        session.predict(i, torch.tensor([[x]]), lambda rows=None, branches=None, said=said: said)
        totals += session.total
    assert totals[4:] == pytest.approx([0.2 * 0.5 / 5.3, 2 * 0.2 * 0.5 / 5.3], rel=1e-6)


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="threshold"):
        EasyCache(threshold=-0.1)
    with pytest.raises(ValueError, match="warm-up of 5 needs at least 7 steps, got 6"):
        EasyCache().session(stub_job(6))
