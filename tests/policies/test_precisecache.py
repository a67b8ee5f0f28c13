"""PreciseCache: decisions against a slow reading of the rule, blocks by hand, and what trials cost."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import computed_at, costs_of, make_job, rollout, share_of
from tests.policies.stubs import SHAPE, Adds, stub_job
from videoaccel.policies.precisecache import PreciseCache, low_frequencies, strides_for
from videoaccel.session.job import Call, Job, Smaller, Velocities
from videoaccel.session.policy import Session

STEPS = 12
LATENT = (4, 4, 20, 24)
"""Z, T, h, w; the smaller one has 2 frames of 5 x 6."""

SOFT = torch.randn(STEPS, 1, 4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
SAID = torch.stack([SOFT[: i + 1].sum(0) / (1 + i) ** 0.7 for i in range(STEPS)])
"""What the network says of the smaller latent: it changes less and less."""


def job_of(said: Tensor = SAID, **fields: Any) -> Job:
    smaller = Smaller(lambda i, x: {"cond": said[i]}, lambda size: math.prod(size) / math.prod(LATENT[1:]))
    return replace(stub_job(len(said)), latent_shape=LATENT, smaller=smaller, **fields)


def play(session: Session, blocks: Sequence[Adds] = ()) -> list[float]:
    """Take a session through all steps; what the network said, which is what the blocks make of the step's number."""
    outs = []
    for i in range(session.job.steps):

        def call(i: int = i, **_: Any) -> Velocities:
            stream = torch.full((session.job.rows, *SHAPE), float(i))
            for site, block in zip(session.job.blocks, blocks, strict=False):
                block.step = i
                stream = session.run(site, block, stream, None)
            return {"cond": stream}

        outs.append(session.predict(i, torch.zeros(1, *LATENT), cast(Call, call))["cond"].flatten()[0].item())
    return outs


def low(x: Tensor) -> Tensor:
    """What of [Z, T, h, w] lies within a circle of a fifth of the smaller side: wave by wave, and transformed back."""
    height, width = x.shape[-2:]
    spectrum = torch.fft.fft2(x.double())
    for k, m in itertools.product(range(height), range(width)):
        wave = math.hypot(min(k, height - k), min(m, width - m))
        if wave > min(height, width) / 5:
            spectrum[..., k, m] = 0
    return torch.fft.ifft2(spectrum).real


def slowly(factor: float, said: Tensor = SAID) -> list[int]:
    computed, total, largest = [0], 0.0, 0.0
    for i in range(1, len(said)):
        change = (low(said[i, 0]) - low(said[i - 1, 0])).norm().item()
        total, largest = total + change, max(largest, change)
        if total >= factor * largest:
            computed.append(i)
            total = 0.0
    return computed


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.5, 0.7, 1.2, 3.0])
def test_decisions_are_those_of_the_rule_read_slowly(factor: float) -> None:
    session = PreciseCache(factor=factor).session(job_of())
    outs = play(session)
    expected = slowly(factor)
    assert computed_at(session, "body") == expected
    assert outs == [float(max(k for k in expected if k <= i)) for i in range(STEPS)]
    assert session.reads == [0, *[1] * (STEPS - 1)]


def test_high_frequencies_decide_nothing() -> None:
    """What a checkerboard has of them changes sign in every step, a hundred times larger than the rest."""
    board = (torch.arange(5)[:, None] + torch.arange(6)) % 2 * 2.0 - 1
    signs = torch.tensor([1.0, -1.0] * 6).view(-1, 1, 1, 1, 1, 1)
    shaken = (SAID + 100 * signs * (board - low(board))).float()
    session = PreciseCache(factor=0.5).session(job_of(shaken))
    play(session)
    assert computed_at(session, "body") == slowly(0.5)


def test_the_circle_is_that_of_the_paper() -> None:
    """Of 20 x 30 all waves of at most 4 a side: 49 of 600, their energy kept."""
    noise = torch.randn(1, 1, 1, 20, 30, generator=torch.Generator().manual_seed(1))
    found = low_frequencies(noise)
    assert int((found != 0).sum()) == 49
    assert found.abs().square().sum().item() == pytest.approx(low(noise).square().sum().item(), rel=1e-5)


def test_one_sample_or_none_decides() -> None:
    session: Any = PreciseCache(factor=0.5).session(job_of())
    session.total, session.largest = [0.0, 0.0], [10.0, 10.0]
    assert not session.due([2.0, 2.0]) and session.due([2.0, 4.0])
    session.total = [0.0, 0.0]
    assert session.due([math.nan, 0.0]) and session.largest == [10.0, 10.0]


def test_blocks_that_add_little_are_served_in_three_calls() -> None:
    """Every step is due. The first and third of four blocks add most; the others' are served from 0, 4 and 8."""
    big, small = [100.0 + i for i in range(STEPS)], [1.0 + i for i in range(STEPS)]
    blocks = [Adds(big), Adds(small), Adds(big), Adds(small)]
    job = job_of()
    session = PreciseCache(factor=0.0, pivotal=0.5).session(replace(job, blocks=stub_job(1, layers=2).blocks))
    outs = play(session, blocks)
    whole = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]
    assert outs == [i + 2 * big[i] + 2 * small[whole[i]] for i in range(STEPS)]
    assert [block.calls for block in blocks] == [12, 3, 12, 3]
    assert computed_at(session, "time.0.block") == [0, 4, 8]


def test_a_changed_latent_is_computed_whole() -> None:
    session: Any = PreciseCache(factor=0.0, pivotal=0.5).session(job_of())
    begin = session.begin

    def begin_and_disturb(i: int) -> None:
        begin(i)
        if i == 2:
            session.disturb()

    session.begin = begin_and_disturb
    play(session, [Adds([5.0] * STEPS), Adds([1.0] * STEPS)])
    assert computed_at(session, "time.0.block") == [0, 2, 6, 10]


def test_off_gives_the_bits_of_a_plain_run() -> None:
    exact, _ = rollout(lambda job, mix: Session(job, mix=mix), steps=6)
    found, session = rollout(PreciseCache(factor=0.0), steps=6)
    assert torch.equal(found, exact) and session.idle


def test_trials_are_counted() -> None:
    """Of 3 x 8 x 8 latents, patches of 1 x 2 x 2, the trial has 2 x 1 x 1 of 3 x 4 x 4 tokens."""
    _, session = rollout(PreciseCache(factor=1e9), steps=4)
    costs = costs_of(tiny_stdit())
    assert session.shares == pytest.approx([1 + 1 / 24, 1 / 24, 1 / 24, 1 / 24])
    assert costs.total(session.trace, session.shares) == pytest.approx((1 + 4 / 24) * costs.dense)


def test_blocks_on_a_network() -> None:
    exact, _ = rollout(None, steps=12)
    found, session = rollout(PreciseCache(factor=0.3, pivotal=0.4), steps=12)
    assert (found - exact).abs().mean() < exact.abs().mean()
    assert any(
        str(action) == "reuse" for step in session.trace for place, action in step.items() if str(place) != "body"
    )


@pytest.mark.parametrize(
    ("refused", "strides"), [((), (2, 4, 4)), (((2, 2, 2),), (1, 4, 4)), (((2, 2, 2), (3, 2, 2)), (2, 2, 2))]
)
def test_a_size_that_the_network_does_not_take_is_passed_over(refused: Any, strides: Any) -> None:
    model = tiny_stdit()

    def share(size: Sequence[int]) -> float | None:
        return None if tuple(size) in refused else share_of(model, size, (3, 8, 8))

    assert strides_for(Smaller(lambda i, x: {}, share), (3, 8, 8))[0] == strides


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs at least 2 steps, got 1"):
        PreciseCache().session(job_of(SAID[:1]))
    with pytest.raises(ValueError, match="a network that runs on smaller latents"):
        PreciseCache().session(make_job(tiny_stdit()))
    with pytest.raises(ValueError, match="no smaller latent than 2 x 2"):
        strides_for(Smaller(lambda i, x: {}, lambda size: 1.0), (1, 2, 2))
    with pytest.raises(ValueError, match="pivotal"):
        PreciseCache(pivotal=0.0)
