"""BWCache: decisions against a slow reading of the rule, and what was published of it."""

import math
from typing import Any

import pytest
import torch

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.policies.bwcache import BWCache, mean_changes, served_steps
from videoaccel.session.policy import Session

TRUNK = "blocks.0-1"
FIRST = [1.0, 3.0, 4.0, 4.2, 4.3, 4.4, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0]
SECOND = [10.0, 9.0, 9.5, 9.6, 9.7, 9.8, 9.9, 10.0, 10.1, 10.2, 10.3, 10.4]
STREAM = 2.0


def slowly(threshold: float, run: int, tail: float) -> list[int]:
    """Steps that are computed, by the rule as it reads."""
    after_first = [STREAM + a for a in FIRST]
    after_second = [x + b for x, b in zip(after_first, SECOND, strict=True)]
    computed, left, begins = [], 0, 0
    for i in range(12):
        if not begins and i >= 2:
            first = abs(after_first[i - 1] - after_first[i - 2]) / abs(after_first[i - 2])
            second = abs(after_second[i - 1] - after_second[i - 2]) / abs(after_second[i - 2])
            begins, left = (i, run) if (first + second) / 2 < threshold else (0, 0)
        if begins and left and i < 12 - max(1, math.floor(tail * begins)):
            left -= 1
        else:
            computed.append(i)
            left = run
    return computed


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.06, 0.15, 0.2, 9.0])
@pytest.mark.parametrize(("interval", "run"), [(0.1, 1), (0.25, 3)])
@pytest.mark.parametrize("tail", [0.0, 0.5, 1.0])
def test_decisions_are_those_of_the_rule_read_slowly(threshold: float, interval: float, run: int, tail: float) -> None:
    session = BWCache(threshold=threshold, interval=interval, tail=tail).session(stub_job(12))
    play(session, [Adds(FIRST), Adds(SECOND)], lambda i: STREAM)
    assert computed_at(session, TRUNK) == slowly(threshold, run, tail)


def test_outputs_and_calls_by_hand() -> None:
    """Mean changes: (2/3 + 1/13) / 2, then (1/5 + 1.5/14) / 2 = .154: from step 3 on two of three are served."""
    session = BWCache(threshold=0.16, interval=0.2).session(stub_job(12))
    blocks = [Adds(FIRST), Adds(SECOND)]
    outs = play(session, blocks, lambda i: 100.0 * i if i > 2 else STREAM)
    assert computed_at(session, TRUNK) == [0, 1, 2, 5, 8, 11]
    said = [0, 1, 2, 2, 2, 5, 5, 5, 8, 8, 8, 11]
    streams = [100.0 * i if i > 2 else STREAM for i in range(12)]
    assert outs == pytest.approx([x + FIRST[k] + SECOND[k] for x, k in zip(streams, said, strict=True)], rel=1e-6)
    assert [block.calls for block in blocks] == [6, 6]
    assert session.reads == [0, 0, 1, 1, *[0] * 8], "nothing is asked once the schedule stands"


def test_the_published_shares_are_those_of_a_tail_counted_from_the_first_step() -> None:
    """Of 30 steps 41.38 %, 53.05 % and 59.00 % are served on average; nothing in the second half is too little."""
    shares = {k: len(served_steps(k, 30, interval=0.1, tail=0.5)) / 30 for k in range(2, 12)}
    for published in (0.4138, 0.5305, 0.5900):
        assert min(abs(share - published) for share in shares.values()) < 0.021
    halves = [sum((i - k) % 4 < 3 for i in range(k, k + (30 - k) // 2)) / 30 for k in range(2, 12)]
    assert max(halves) < 0.4138


def test_one_sample_or_none_decides() -> None:
    assert mean_changes([1.0, 2.0, 10.0, 10.0, 3.0, 0.0, 10.0, 10.0], 2) == pytest.approx([0.2, 0.1])
    for numbers in ([1.0, 9.0, 10.0, 10.0], [1.0, math.nan, 10.0, 10.0]):
        session: Any = BWCache(threshold=0.15).session(stub_job(12, batch=2))
        session.i = 4
        session._begin(numbers)
        assert session.served is None
    session._begin([1.0, 1.4, 10.0, 10.0])
    assert session.served is not None


def test_outputs_are_kept_until_serving_begins() -> None:
    session: Any = BWCache(threshold=0.16, interval=0.2).session(stub_job(12))
    held: list[int] = []
    play(session, [Adds(FIRST), Adds(SECOND)], lambda i: STREAM, after=lambda i: held.append(session.cache_bytes))
    residual = 2 * 4 * 3 * 4
    assert held == [*[3 * residual] * 3, *[residual] * 9]


def test_a_changed_latent_is_computed() -> None:
    session = BWCache(threshold=9, interval=0.2).session(stub_job(12))
    play(session, [Adds(FIRST), Adds(SECOND)], lambda i: STREAM, after=lambda i: session.disturb() if i == 2 else None)
    assert computed_at(session, TRUNK) == [0, 1, 3, 4, 7, 10, 11]


def test_off_gives_the_bits_of_a_plain_run() -> None:
    exact, _ = rollout(lambda job, mix: Session(job, mix=mix), steps=8)
    found, session = rollout(BWCache(threshold=0.0), steps=8)
    assert torch.equal(found, exact) and session.idle


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="bwcache needs at least 4 steps, got 3"):
        BWCache().session(stub_job(3))
    with pytest.raises(ValueError, match="interval"):
        BWCache(interval=1.0)
    with pytest.raises(ValueError, match="threshold"):
        BWCache(threshold=-0.1)
