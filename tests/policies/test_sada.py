"""SADA: criteria by hand, decisions per sample, given frames, partial columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.image_networks import tiny_pixart
from tests.models.latte_networks import tiny_latte
from tests.models.networks import tiny_stdit
from tests.policies import rank_work
from tests.policies.rollout import costs_of, make_job, rollout
from tests.ranks import RankPools
from videoaccel.models.seam import BODY
from videoaccel.policies._sada_stability import Node, OfficialTrack, Rules, Track, extrapolate, sign_products
from videoaccel.policies.sada import Sada
from videoaccel.session.job import Job, Velocities, local_mix
from videoaccel.session.policy import Session

SIZE = (3, 4, 4)
RULES = Rules(criterion="posterior", threshold=1.0, terms=2, max_run=4, reach=3.0, history=4)


def job_of(steps: int, *, batch: int = 1, guidance: float = 1.0, sigmas: Tensor | None = None, **fields: Any) -> Job:
    """A job, on its own schedule if one is given."""
    job = make_job(tiny_stdit(depth=1), steps=steps, batch=batch, guidance=guidance, size=SIZE, **fields)
    return job if sigmas is None else replace(job, sigmas=sigmas)


Curve = Callable[[int, float], Tensor]
"""(sample, sigma) -> prediction [4, *SIZE]."""


def play(session: Session, curve: Curve, *, rows: Sequence[int] | None = None) -> tuple[list[Tensor], list[list[int]]]:
    """Guided predictions of every step, and the samples that ran; the unconditional branch says half as much."""
    job, outs, ran = session.job, [], []
    names = list(rows or range(job.samples))
    for i in range(job.steps):
        here: list[int] = []

        def call(
            rows: Sequence[int] | None = None, branches: Any = None, *, i: int = i, here: list[int] = here
        ) -> Velocities:
            chosen = range(job.samples) if rows is None else rows
            here += chosen
            cond = torch.stack([curve(names[b], float(job.sigmas[b, i])) for b in chosen])
            return {name: cond if name == "cond" else cond / 2 for name in job.branches}

        out = session.predict(i, torch.zeros(job.samples, 4, *SIZE), call)
        assert all(value.shape == (job.samples, 4, *SIZE) for value in out.values())
        outs.append(out["cond"])
        ran.append(here)
    return outs, ran


def flat(number: float) -> Tensor:
    return torch.full((4, *SIZE), number)


def verdicts(session: Any) -> list[list[str]]:
    return list(session.verdicts)


# Arithmetic -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.02, 0.3), min_size=4, max_size=4), st.integers(2, 4))
def test_polynomials_are_reproduced_on_any_grid(gaps: list[float], terms: int) -> None:
    marks = [1 - sum(gaps[:k]) for k in range(5)]

    def curve(at: float) -> float:
        return sum((k + 1) * at**k for k in range(terms))

    nodes = [Node(at, torch.tensor(curve(at), dtype=torch.float64)) for at in marks[:terms]]
    assert extrapolate(marks[-1], nodes).item() == pytest.approx(curve(marks[-1]), rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.sampled_from(["paper", "ab2"]))
def test_the_products_are_the_published_ones_in_true_step_sizes(seed: int, criterion: Any) -> None:
    """x_next - x_hat of an Euler step times the second difference, from their definitions."""
    g = torch.Generator().manual_seed(seed)
    y0, y1, y2 = torch.randn(3, 50, generator=g, dtype=torch.float64)
    h, hp, hpp = (0.05 + torch.rand(3, generator=g, dtype=torch.float64)).tolist()
    nodes = [Node(hp + hpp, y2), Node(hp, y1), Node(0.0, y0)]
    # On equal steps of h the predictions would have changed by so much.
    d0, d1 = (y0 - y1) * h / hp, (y1 - y2) * h / hpp
    x_next = -h * y0
    if criterion == "ab2":
        x_hat = -h * ((1 + h / (2 * hp)) * y0 - h / (2 * hp) * y1)
    else:
        x_hat = -h * (5 / 6 * y0 + 5 / 6 * (y0 - d0) - 2 / 3 * (y0 - d0 - d1))
    expected = ((x_next - x_hat) * (d0 - d1)).sum()
    found = sign_products(criterion, nodes).sum()
    assert (found < 0) == (expected < 0)
    scale = h**3 / (2 if criterion == "ab2" else 6)
    assert (found * scale).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("criterion", ["paper", "ab2"])
def test_the_sign_follows_the_growth_of_the_increments(criterion: Any) -> None:
    """Acceptance: rho = 1 is the border, increments that halve are stable, that double are not."""

    def total(rho: float) -> float:
        nodes = [Node(2.0, flat(0.0)), Node(1.0, flat(1.0)), Node(0.0, flat(1.0 + rho))]
        return float(sign_products(criterion, nodes).sum())

    assert total(1.0) == 0
    assert total(0.5) < 0 < total(2.0)
    assert (total(5.0) < 0) == (criterion == "paper"), "the published weights call a rho above 4 stable"


def test_noise_is_unstable_only_to_ab2() -> None:
    nodes = [Node(float(-k), noise) for k, noise in enumerate(torch.randn(3, 4000, generator=torch.manual_seed(0)))]
    assert float(sign_products("ab2", nodes).sum()) > 0 > float(sign_products("paper", nodes).sum())


def test_posterior_predicts_the_error_of_a_parabola() -> None:
    """Of s^2 a line through s1, s2 is off by (s - s1)(s - s2): measured at one step, right at the next ones."""
    track = Track(RULES)
    for at in (1.0, 0.9, 0.75):
        track.computed(at, flat(at**2))
    assert track.pending is not None
    track.judge(track.pending.tolist())
    assert track.predicted_error(0.75) == 0
    for at in (0.7, 0.6, 0.4):
        off = abs(track.forecast(at) - at**2).max().item()
        assert track.predicted_error(at) * 0.75**2 == pytest.approx(off, rel=1e-4)
        assert off == pytest.approx((0.9 - at) * (0.75 - at), rel=1e-4)


def test_reach_and_run_bound_a_skip() -> None:
    track = Track(RULES._replace(max_run=2))
    for at in (1.0, 0.9, 0.8):
        track.computed(at, flat(at))
    track.judge([0.0, 1.0])
    assert [track.may_skip(at) for at in (0.7, 0.5, 0.49)] == [True, True, False], "three distances of 0.1"
    track.skipped(0.7)
    track.skipped(0.6)
    assert not track.may_skip(0.5)
    track.judge([math.nan, 1.0])
    track.run = 0
    assert not track.may_skip(0.7)


def test_the_official_rule_sees_its_own_extrapolation() -> None:
    track = OfficialTrack(RULES._replace(criterion="official"))
    for at, value in ((1.0, 1.0), (0.9, 3.0), (0.8, 4.0)):
        track.computed(at, flat(value))
    assert track.pending is not None
    numbers = track.pending.tolist()
    assert numbers[0] == pytest.approx((4 - 2 * 3 + 1) * flat(1.0).numel())
    track.judge(numbers)
    assert track.may_skip(0.7)
    assert torch.equal(track.skipped(0.7), flat(2 * 4.0 - 3.0))
    assert track.pending is not None and track.pending[0] == 0, "void after a skip"
    assert torch.equal(track.skipped(0.6), flat(4.0)), "the copy in its history: reuse"


# Decisions ------------------------------------------------------------------------------------------------------------


def parabola(scale: float) -> Curve:
    return lambda b, at: flat(1.0 + scale * (b + 1) * at**2)


def test_straight_predictions_are_skipped_as_far_as_allowed() -> None:
    session = Sada(max_run=3).session(job_of(20))
    outs, ran = play(session, lambda b, at: flat(1 + 2 * at))
    assert [i for i, here in enumerate(ran) if here] == [0, 1, 2, 3, 7, 11, 15, 18, 19]
    for i, out in enumerate(outs):
        torch.testing.assert_close(out[0], flat(1 + 2 * (1 - i / 20)))
    assert session.reads == [int(i in (4, 8, 12, 16)) for i in range(20)], "once after every computed step that matters"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_skipped_as_long_as_the_predicted_error_allows(guidance: float) -> None:
    """1 + s^2 in steps of 0.05: by hand, from E measured at the computed steps."""
    session: Any = Sada(threshold=0.01, max_run=9).session(job_of(20, guidance=guidance))
    outs, ran = play(session, parabola(1.0))
    sigma = [1 - i / 20 for i in range(21)]
    nodes, expected = [0, 1, 2, 3], [0, 1, 2, 3]
    for i in range(4, 20):
        a, b = (sigma[k] for k in nodes[-2:])
        _, now = nodes[-3:-1], sigma[nodes[-1]]
        error = (b - sigma[i]) * (a - sigma[i]) / (1 + now**2)
        if i >= 18 or error >= 0.01 or (b - sigma[i]) > 3 * (a - b) * (1 + 1e-4):
            nodes.append(i)
            expected.append(i)
    assert [i for i, here in enumerate(ran) if here] == expected
    assert 6 < len(expected) < 16
    for i in set(range(20)) - set(expected):
        true = flat(1 + sigma[i] ** 2) * (1.0 if guidance == 1 else (1 + guidance) / 2)
        assert (outs[i][0] - true).abs().max() < 0.03 * guidance


def test_a_batch_of_four_equals_four_batches_of_one() -> None:
    """Other curves and other schedules in every row: the very same numbers and decisions."""
    grid = torch.stack([torch.linspace(1, 0, 21) ** power for power in (1.0, 0.8, 1.3, 1.0)])
    wave: Curve = lambda b, at: torch.sin((b + 1) * torch.linspace(0, 1, 4 * 48).view(4, *SIZE) + (b + 2) * at)  # noqa: E731
    for fields in ({"threshold": 0.02}, {"criterion": "paper", "max_run": 2}, {"criterion": "official", "max_run": 2}):
        together: Any = Sada(**fields).session(job_of(20, batch=4, guidance=2.0, sigmas=grid))
        outs, ran = play(together, wave)
        assert any(0 < len(here) < 4 for here in ran), "they must differ to tell anything"
        for b in range(4):
            alone: Any = Sada(**fields).session(job_of(20, guidance=2.0, sigmas=grid[b : b + 1]))
            single, _ = play(alone, wave, rows=[b])
            assert [row[0] for row in alone.verdicts] == [row[b] for row in together.verdicts]
            assert all(torch.equal(one[0], many[b]) for one, many in zip(single, outs, strict=True))
    assert together.shares == [len(here) / 4 for here in ran]


def test_a_batch_on_a_network() -> None:
    policy = Sada(threshold=1.2)
    together, session = rollout(policy, batch=3, steps=12)
    for b in range(3):
        alone, single = rollout(policy, batch=3, only=[b], steps=12)
        torch.testing.assert_close(together[b], alone[0], atol=1e-4, rtol=1e-4)
        assert [row[0] for row in verdicts(single)] == [row[b] for row in verdicts(session)]


def test_given_frames_do_not_count_and_a_change_of_them_forgets_that_sample() -> None:
    made = torch.ones(20, 2, SIZE[0], dtype=torch.bool)
    made[:, :, 0] = False
    made[9:, 1, 0] = True

    def curve(b: int, at: float) -> Tensor:
        value = flat(1 + 2 * at)
        value[:, 0] = 1e3 * math.sin(1e3 * at)  # the given frame
        return value

    straight = Sada(max_run=3).session(job_of(20))
    play(straight, lambda b, at: flat(1 + 2 * at))
    session: Any = Sada(max_run=3).session(job_of(20, batch=2, x_mask=made))
    play(session, curve)
    assert [row[0] for row in verdicts(session)] == [row[0] for row in verdicts(straight)]
    assert [row[1] for row in verdicts(session)[9:12]] == ["whole"] * 3


@pytest.mark.parametrize("criterion", ["posterior", "paper", "ab2"])
def test_what_is_no_number_is_computed(criterion: Any) -> None:
    session = Sada(criterion=criterion).session(job_of(12))
    _, ran = play(session, lambda b, at: flat(math.nan))
    assert all(ran)


def test_ranks_with_the_same_clip_decide_on_what_they_agree_on() -> None:
    """Sums over two ranks that hold all are twice the numbers: no decision changes. Different numbers: agreed ones."""
    curve = parabola(1.0)
    one: Any = Sada(threshold=0.01).session(job_of(20))
    two: Any = Sada(threshold=0.01).session(job_of(20, agree=lambda stats: 2 * stats))
    play(one, curve), play(two, curve)
    assert one.verdicts == two.verdicts
    never = lambda stats: torch.tensor([[1.0, 1e-9]])  # noqa: E731
    lone, other = (Sada(threshold=0.01).session(job_of(20, agree=never)) for _ in range(2))
    play(lone, curve), play(other, lambda b, at: flat(at))
    assert verdicts(lone) == verdicts(other) == [["whole"]] * 20


@pytest.mark.parametrize("criterion", ["posterior", "paper", "ab2"])
def test_ranks_decide_alike_whatever_each_has_computed(ranks: RankPools, criterion: str) -> None:
    """Two and four ranks: with equal numbers as one, with numbers of their own still all the same."""
    alone: Any = Sada(criterion=criterion, max_run=2).session(job_of(20))  # type: ignore[arg-type]
    play(alone, lambda b, at: flat(1 + at**3))
    for count in (2, 4):
        assert ranks(count).run(rank_work.sada_verdicts, criterion, 0.0) == [alone.verdicts] * count
        fuzzed = ranks(count).run(rank_work.sada_verdicts, criterion, 0.01)
        assert all(verdicts == fuzzed[0] for verdicts in fuzzed)


def test_halves_of_a_clip_add_up_to_its_sums() -> None:
    values = torch.randn(3, 4, *SIZE, generator=torch.manual_seed(1))
    for criterion in ("posterior", "ab2", "paper"):
        tracks = [Track(RULES._replace(criterion=criterion)) for _ in range(3)]  # type: ignore[arg-type]
        for k, value in enumerate(values):
            for track, part in zip(tracks, (value, value[..., :1], value[..., 1:]), strict=True):
                track.computed(1 - k / 10, part)
        whole, left, right = (track.pending for track in tracks)
        torch.testing.assert_close(left + right, whole)  # type: ignore[operator]


def test_the_late_regime_has_a_period_and_a_polynomial() -> None:
    policy = Sada(criterion="ab2", multistep_from=0.5, multistep_period=4, multistep_terms=3)
    session: Any = policy.session(job_of(20))
    outs, ran = play(session, lambda b, at: flat(at**2 - at))
    assert [i for i, here in enumerate(ran) if i >= 9 and here] == [9, 10, 14, 18, 19]
    for i in (11, 12, 13, 15, 16, 17):
        at = 1 - i / 20
        torch.testing.assert_close(outs[i][0], flat(at**2 - at), atol=1e-5, rtol=0)


# Some columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["posterior", "ab2", "official"])
@pytest.mark.parametrize("network", ["stdit", "odd", "latte", "pixart"])
def test_unstable_samples_run_some_columns(criterion: Any, network: str) -> None:
    fields: dict[str, Any] = {
        "stdit": {},
        "odd": {"size": (3, 7, 9)},
        "latte": {"size": (4, 8, 8)},
        "pixart": {"size": (1, 8, 8)},
    }[network]
    model = {"latte": tiny_latte, "pixart": tiny_pixart}.get(network, tiny_stdit)()
    policy = Sada(criterion=criterion, keep=0.5, **({"threshold": 1e-6} if criterion == "posterior" else {}))
    out, session = rollout(policy, model=model, steps=12, batch=2, **fields)  # type: ignore[arg-type]
    exact, _ = rollout(None, model=model, steps=12, batch=2, **fields)  # type: ignore[arg-type]
    assert {"whole", "columns"} <= {verdict for row in verdicts(session) for verdict in row}
    assert 0 < (out - exact).abs().mean() < exact.abs().mean()


def test_dropped_columns_are_extrapolated_and_kept_ones_are_the_networks() -> None:
    session: Any = Sada(threshold=1e-6, keep=0.25, groups=2).session(job_of(10))
    at = 0.7
    for sigma in (1.0, 0.9, 0.8):
        session.tracks[0].computed(sigma, torch.randn(4, *SIZE, generator=torch.manual_seed(int(10 * sigma))))
    session._kept = torch.tensor([[1, 2]])
    expected = session.tracks[0].forecast(at)
    session.begin(0)
    out = session._partly(3, lambda rows, branches=None: {"cond": flat(9.0)[None]}, [0])[0]["cond"]
    kept = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    assert (out[..., kept] == 9).all()
    torch.testing.assert_close(out[..., ~kept], expected[..., ~kept])


def test_the_most_unstable_columns_are_kept_and_one_of_every_cell_in_turn() -> None:
    session: Any = Sada(keep=0.5).session(job_of(10))
    session.tracks[0].unstable = torch.zeros(4, *SIZE)
    session.tracks[0].unstable[..., 2:, 2:] = 1.0
    assert session._column_scores(0).argsort(descending=True).tolist()[:2] == [0, 3], "due, then unstable"
    session._phases[0] = 4
    assert session._column_scores(0).argmax() == 3


def test_a_step_of_some_columns_costs_a_share() -> None:
    model = tiny_stdit()
    _, session = rollout(Sada(threshold=1e-6, keep=0.25), model=model, steps=12)
    costs = costs_of(model)
    step = next(step for step in session.trace if str(step[BODY]) == "partial0.25")
    share = costs.step(step, 1.0) / costs.dense
    assert 0.25 < share < 0.6
    runs = "".join("p" if "partial" in str(step[BODY]) else "c" for step in session.trace)
    assert runs == "cccpppcpppcc", "a whole step at least every fourth, three distances from the last two"


# Options --------------------------------------------------------------------------------------------------------------


def test_skipping_nothing_is_bit_identical() -> None:
    exact, _ = rollout(None, steps=8)
    out, session = rollout(Sada(threshold=1e-9), steps=8)
    assert torch.equal(out, exact)
    assert session.shares == [1.0] * 8 and session.reads == [0, 0, 0, 1, 1, 1, 0, 0]


def test_more_is_skipped_the_higher_the_threshold() -> None:
    counts = []
    for threshold in (0.001, 0.01, 0.1, 1.0):
        session = Sada(threshold=threshold).session(job_of(30))
        counts.append(sum(map(bool, play(session, parabola(1.0))[1])))
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 2


def test_three_nodes_follow_a_parabola() -> None:
    session = Sada(terms=3, threshold=0.001, max_run=2).session(job_of(20))
    _, ran = play(session, parabola(1.0))
    gaps = [later - earlier for earlier, later in pairwise(i for i, here in enumerate(ran) if here)]
    assert gaps.count(3) >= 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"criterion": "paper", "threshold": 0.1}, "threshold is for the criterion posterior; paper has none"),
        ({"multistep_period": 3}, "multistep_period changes nothing without multistep_from"),
        ({"refresh": 3}, "refresh changes nothing without keep"),
    ],
)
def test_options_without_effect_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sada(**fields)


def test_a_threshold_that_lets_everything_rest_is_told() -> None:
    with pytest.warns(UserWarning, match="a threshold of 7 lets sada skip whatever the error"):
        Sada(threshold=7)


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"sada with a start of 0.2 needs at least 6 steps, got 5"):
        Sada().session(job_of(5))
    with pytest.raises(ValueError, match=r"sada with a start of 0.9 needs at least 25 steps, got 10"):
        Sada(start=0.9).session(job_of(10))
    with pytest.raises(ValueError, match="sada needs both guidance branches on one rank, got cond"):
        Sada().session(replace(job_of(8, guidance=2.0), branches=("cond",)))
    with pytest.raises(ValueError, match="keep needs a network whose places are patches"):
        Sada(keep=0.5).session(replace(job_of(8), patch=None), mix=local_mix)
