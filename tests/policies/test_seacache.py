"""SeaCache: its filter against sums written out, its decisions against a slow reading of the rule."""

import cmath
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import SHAPE, Adds, stub_job
from videoaccel.policies.seacache import SeaCache, filtered, gains
from videoaccel.sampling.kinds import SCHEDULES
from videoaccel.session.job import Call, Velocities
from videoaccel.session.policy import Session

TRUNK = "blocks.0-1"
SIZE = (2, 3, 4)
LATENTS = torch.randn(10, 1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
DRIFT = [torch.full((1, 1, *SIZE), 1.0) + 0.1 * LATENTS[0] + 0.02 * i for i in range(10)]


def waves(size: Sequence[int]) -> Any:
    """Every frequency of a grid, as (index, cycles a sample along each axis)."""
    for index in itertools.product(*map(range, size)):
        yield index, [(k if 2 * k < n else k - n) / n for k, n in zip(index, size, strict=True)]


def slow_gain(size: Sequence[int], a: float, b: float, power: float) -> dict[tuple[int, ...], float]:
    found = {}
    for index, cycles in waves(size):
        found[index] = 1.0
        for f in map(abs, cycles):
            found[index] *= a * f**-power / (a * a * f**-power + b * b) if f else 1 / a
    mean = sum(found.values()) / len(found)
    return {index: gain / mean for index, gain in found.items()}


def slowly(x: Tensor, a: float, b: float, power: float) -> Tensor:
    """The filter by Fourier sums written out; x [T, h, w]."""
    size, gain, out = x.shape, slow_gain(x.shape, a, b, power), torch.zeros(x.shape, dtype=torch.float64)
    places = list(itertools.product(*map(range, size)))

    def phase(index: Sequence[int], place: Sequence[int]) -> float:
        return 2 * math.pi * sum(k * p / n for k, p, n in zip(index, place, size, strict=True))

    for index in places:
        there = sum(x[p].item() * cmath.exp(-1j * phase(index, p)) for p in places)
        for p in places:
            out[p] += (gain[index] * there * cmath.exp(1j * phase(index, p))).real / len(places)
    return out


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.1), (0.5, 0.5), (0.1, 0.995)])
def test_the_filter_is_the_sum_written_out(a: float, b: float) -> None:
    found = filtered(LATENTS[0], torch.tensor([a]), torch.tensor([b]), power=3.0)[0, 0]
    torch.testing.assert_close(found.double(), slowly(LATENTS[0, 0, 0], a, b, 3.0), atol=1e-6, rtol=1e-5)


def test_high_frequencies_come_in_as_noise_goes() -> None:
    """Noise alone leaves the mean, no noise lets everything through, and on average every gain is one."""
    shares = torch.tensor([0.0, 0.3, 0.7, 1.0])
    found = gains((1, 8, 8), shares, 1 - shares, power=3.0)
    assert found.mean((1, 2, 3)).tolist() == pytest.approx([1.0] * 4)
    assert found[0, 0, 0, 0].item() == pytest.approx(64.0, rel=1e-3)
    assert (found[:, 0, 4, 4].diff() > 0).all() and (found[:, 0, 0, 0].diff() < 0).all()
    torch.testing.assert_close(found[3], torch.ones_like(found[3]), atol=1e-9, rtol=0)


def play(session: Session, xs: Sequence[Tensor], blocks: Sequence[Adds]) -> list[float]:
    """Take a session through all steps; what the stream of zeros is after the blocks."""
    outs = []
    for i, x in enumerate(xs):

        def call(i: int = i, **_: Any) -> Velocities:
            stream = torch.zeros(session.job.rows, *SHAPE)
            for site, block in zip(session.job.blocks, blocks, strict=True):
                block.step = i
                stream = session.run(site, block, stream, None)
            outs.append(stream.flatten()[0].item())
            return {"cond": stream}

        session.predict(i, x, cast(Call, call))
    return outs


def changes(xs: Sequence[Tensor], *, keeps: bool = False) -> list[float]:
    """Relative changes of the filtered latents from step to step."""
    seen = []
    for i, x in enumerate(xs):
        sigma = 1 - i / len(xs)
        a = math.sqrt(1 - sigma**2) if keeps else 1 - sigma
        seen.append(slowly(x[0, 0], max(a, 1e-6), sigma, 3.0))
    return [((new - old).abs().sum() / old.abs().sum()).item() for old, new in itertools.pairwise(seen)]


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.8, 1.7])
def test_decisions_are_those_of_the_rule_read_slowly(share: float, keeps: bool) -> None:
    found = changes(DRIFT, keeps=keeps)
    threshold = share * sum(found) / len(found)
    expected, total = [0], 0.0
    for i in range(1, 9):
        total += found[i - 1]
        if total >= threshold:
            expected.append(i)
            total = 0.0
    session = SeaCache(threshold=threshold).session(replace(stub_job(10), keeps_variance=keeps))
    outs = play(session, DRIFT, [Adds([float(i) for i in range(10)]), Adds([0.0] * 10)])
    assert computed_at(session, TRUNK) == [*expected, 9] and 1 < len(expected) < 9
    assert outs == [float(max(i for i in [*expected, 9] if i <= step)) for step in range(10)]
    assert session.reads == [0, *[1] * 8, 0]


def test_order_one_forecasts() -> None:
    """The blocks add 0, 1, 4 at the first three steps, which are computed; from there on 4 + 3 a step."""
    session: Any = SeaCache(threshold=1e9, order=1).session(stub_job(5))
    squares = Adds([0.0, 1.0, 4.0, 9.0, 16.0])
    found = play(session, DRIFT[:5], [squares, Adds([0.0] * 5)])
    assert found == [0.0, 0.0, 0.0, 0.0, 16.0], "one value has no slope"
    session = SeaCache(order=1).session(stub_job(5))
    session.due = lambda numbers: session.i < 3
    assert play(session, DRIFT[:5], [squares, Adds([0.0] * 5)]) == [0.0, 1.0, 4.0, 7.0, 16.0]


def test_one_sample_or_none_decides() -> None:
    session: Any = SeaCache(threshold=0.2).session(stub_job(10, batch=2))
    assert not session.due([0.15, 0.0]) and session.due([0.0, 0.25])
    assert session.due([math.nan, 0.0])


def test_a_changed_latent_is_computed() -> None:
    session: Any = SeaCache(threshold=1e9).session(stub_job(6))
    begin = session.begin

    def begin_and_disturb(i: int) -> None:
        begin(i)
        if i == 3:
            session.disturb()

    session.begin = begin_and_disturb
    play(session, DRIFT[:6], [Adds([1.0] * 6), Adds([0.0] * 6)])
    assert computed_at(session, TRUNK) == [0, 3, 5]


def test_schedules_say_what_adds_up_to_one() -> None:
    for name, kind in SCHEDULES.items():
        schedule = kind()
        assert schedule.keeps_variance == (name != "rectified_flow")
        schedule.set_timesteps(4, height=64, width=64, num_frames=1, dtype=torch.float32)
    assert not SCHEDULES["dpm_solver"](use_flow_sigmas=True, prediction_type="flow_prediction").keeps_variance


def test_off_gives_the_bits_of_a_plain_run() -> None:
    exact, _ = rollout(lambda job, mix: Session(job, mix=mix), steps=6)
    found, session = rollout(SeaCache(threshold=0.0), steps=6)
    assert torch.equal(found, exact) and session.idle


def test_on_a_network() -> None:
    _, session = rollout(SeaCache(threshold=0.6), steps=12)
    assert 2 < len(computed_at(session, "blocks.0-3")) < 12
    latent, residual = 4 * 3 * 8 * 8, 2 * 3 * 16 * 48
    assert session.peak_bytes == 4 * (latent + residual)


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="seacache needs at least 3 steps, got 2"):
        SeaCache().session(stub_job(2))
    with pytest.raises(ValueError, match="order"):
        SeaCache(order=2)
    with pytest.raises(ValueError, match="power"):
        SeaCache(power=0.0)
