import math
from typing import Any

import pytest

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.policies.first_block import FirstBlock

FIRST = [1.0, 1.05, 1.1, 1.2, 1.25, 1.1]
OTHER = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def test_decisions_and_outputs_by_hand() -> None:
    """Changes since the last computed step: .05 (serve), .1, .09 (compute), .042 (serve), .083 (compute)."""
    session = FirstBlock(threshold=0.08).session(stub_job(6))
    blocks = [Adds(FIRST), Adds(OTHER)]
    outs = play(session, blocks, lambda i: 100 * i)
    assert computed_at(session, "blocks.1-1") == [0, 2, 3, 5]
    served = [10.0, 10.0, 30.0, 40.0, 40.0, 60.0]
    assert outs == pytest.approx([100 * i + FIRST[i] + served[i] for i in range(6)], rel=1e-6)
    assert [block.calls for block in blocks] == [6, 4]
    assert session.reads == [0, 1, 1, 1, 1, 1]


def test_the_warm_up_is_computed() -> None:
    session = FirstBlock(threshold=9, warmup=3).session(stub_job(6))
    play(session, [Adds(FIRST), Adds(OTHER)], float)
    assert computed_at(session, "blocks.1-1") == [0, 1, 2]


def test_a_changed_latent_is_computed() -> None:
    session = FirstBlock(threshold=9).session(stub_job(6))
    play(session, [Adds(FIRST), Adds(OTHER)], float, after=lambda i: session.disturb() if i == 2 else None)
    assert computed_at(session, "blocks.1-1") == [0, 3]


def test_one_sample_or_none_decides() -> None:
    session: Any = FirstBlock(threshold=0.08).session(stub_job(6, batch=2))
    assert session.holds([0.05, 0.08]) and not session.holds([0.05, 0.09]) and not session.holds([0.0, math.nan])


def test_on_a_network() -> None:
    _, session = rollout(FirstBlock(threshold=0.5), steps=12)
    assert computed_at(session, "blocks.1-3") != list(range(12))
    assert session.peak_bytes == 2 * 2 * 3 * 16 * 48 * 4, "two float32 residuals of both branches"


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="warm-up of 4 needs at least 5 steps, got 4"):
        FirstBlock(warmup=4).session(stub_job(4))
