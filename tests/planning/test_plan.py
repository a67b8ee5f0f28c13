"""Planners against brute force, and their rules against hand-made tables."""

import itertools

import pytest
import torch
from torch import Tensor

from videoaccel.models.seam import Site
from videoaccel.planning.anchors import Objective, best_anchors
from videoaccel.planning.plan import (
    Errors,
    Plan,
    UnreachableError,
    between_anchors,
    coarsen,
    site_schedules,
    to_ratio,
)
from videoaccel.session.actions import COMPUTE, REUSE, Compute, Forecast, Partial, Span
from videoaccel.session.costs import Costs

SITES = (Site("attn", "space", 0), Site("mlp", "space", 0))
BLOCKS = {Site("block", "space", 0): SITES}
COSTS = Costs(
    "ms",
    modules={("space", "attn"): {0.0: 0.0, 0.5: 3.0, 1.0: 4.0}, ("space", "mlp"): {0.0: 0.5, 0.5: 3.5, 1.0: 6.0}},
    kept={},
    rest=1.0,
    blocks=BLOCKS,
)


def tables(steps: int, ages: int, seed: int) -> Errors:
    g = torch.Generator().manual_seed(seed)
    cache = torch.rand(steps, len(SITES), ages, generator=g).cumsum(-1)
    prune = cache[:, :, None] * torch.rand(steps, len(SITES), 1, ages, generator=g)
    forecast = cache * (0.5 + torch.rand(steps, len(SITES), ages, generator=g))
    return Errors(cache, prune, forecast, (0.5,))


def brute_anchors(served: Tensor, count: int, distances: list[int]) -> dict[str, tuple[list[float], list[int]]]:
    """All ways to place anchors, judged by both objectives."""
    steps = len(served)
    found: list[tuple[list[float], list[int]]] = []
    for rest in itertools.combinations(range(1, steps), count - 1):
        path = [0, *rest]
        gaps = [b - a for a, b in itertools.pairwise([*path, steps])]
        if any(gap not in distances for gap in gaps[:-1]) or not (gaps[-1] in distances or gaps[-1] < min(distances)):
            continue
        segments = [
            sum(float(served[a + age, age - 1]) for age in range(1, gap)) for a, gap in zip(path, gaps, strict=True)
        ]
        found.append((segments, path))
    return {
        "additive": min(found, key=lambda item: sum(item[0])),
        "minimax": min(found, key=lambda item: sorted(item[0], reverse=True)),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "distances"), [(4, [1, 2, 3, 4]), (4, [2, 3]), (6, [1, 2]), (3, [2, 3, 4])])
def test_anchors_are_the_best_there_are(seed: int, count: int, distances: list[int]) -> None:
    served = torch.rand(9, 3, generator=torch.Generator().manual_seed(seed)).cumsum(-1)
    expected = brute_anchors(served, count, distances)
    for objective in ("additive", "minimax"):
        path, error = best_anchors(served, count, objective=objective, distances=distances)  # type: ignore[arg-type]
        segments, best = expected[objective]
        assert path == best
        assert error == pytest.approx(sum(segments) if objective == "additive" else max(segments), rel=1e-5)


def test_the_two_objectives_differ() -> None:
    """The least sum and the least maximum are not always the same path."""

    def path(seed: int, objective: Objective) -> list[int]:
        served = torch.rand(9, 3, generator=torch.Generator().manual_seed(seed)).cumsum(-1)
        return best_anchors(served, 4, objective=objective)[0]

    assert any(path(seed, "additive") != path(seed, "minimax") for seed in range(20))


def test_impossible_counts_say_what_is_possible() -> None:
    served = torch.rand(9, 3)
    with pytest.raises(UnreachableError, match="20 anchors of 9 steps are not possible"):
        best_anchors(served, 20)
    with pytest.raises(UnreachableError, match="possible: 3 to 5"):
        best_anchors(served, 8, distances=[2, 3])


def test_between_anchors_serves_or_prunes_by_the_printed_rule() -> None:
    errors = tables(4, 3, seed=0)
    errors.prune[0, 0, 0, 0], errors.cache[1, 0, 0] = 0.1, 0.2  # below: prune
    errors.prune[0, 1, 0, 0], errors.cache[1, 1, 0] = 0.3, 0.2  # above: serve
    plan = between_anchors([0, 2, 3], errors, SITES, COSTS, rule="paper", keep=lambda sensitivity: 0.5)
    assert plan.steps[0] == dict.fromkeys(SITES, COMPUTE)
    assert plan.steps[1] == {SITES[0]: Partial(0.5), SITES[1]: REUSE}
    assert plan.error == pytest.approx(float(errors.prune[1, 0, 0, 0] + errors.cache[1, 1, 0]), rel=1e-5)
    assert plan.anchors == [0, 2, 3]


def test_sensitive_sites_are_pruned_less() -> None:
    errors = tables(2, 2, seed=1)._replace(shares=(0.25, 0.75))
    errors = errors._replace(prune=torch.zeros(2, 2, 2, 2), cache=torch.tensor([[1.0, 3.0]] * 2).T.expand(2, 2, 2))
    plan = between_anchors([0], errors, SITES, COSTS, rule="paper", keep=lambda s: 0.0 + 0.4 * s)
    low, high = (plan.steps[1][site] for site in SITES)
    assert isinstance(low, Partial) and isinstance(high, Partial)
    assert errors.cache[1, 0, 0] == errors.cache[1, 1, 0] or low.keep <= high.keep


def test_value_rule_asks_what_a_millisecond_saves() -> None:
    errors = tables(2, 1, seed=2)
    errors.cache[1, 0, 0], errors.prune[1, 0, 0, 0] = 1.0, 0.4  # saves 0.6 for 3 ms
    free = between_anchors([0], errors, SITES, COSTS, rule="value", price=0.19)
    dear = between_anchors([0], errors, SITES, COSTS, rule="value", price=0.21)
    assert free.steps[1][SITES[0]] == Partial(0.5) and dear.steps[1][SITES[0]] == REUSE


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("forecast", [False, True])
def test_value_rule_weighs_every_site_for_itself(seed: int, forecast: bool) -> None:
    """Against one comparison after the other; a tie is served."""
    g, shares, anchors, price = torch.Generator().manual_seed(seed), (0.25, 0.5, 0.75), [0, 3, 5], 0.02 * seed
    served, prune = torch.rand(8, 2, 3, generator=g), torch.rand(8, 2, 3, 3, generator=g)
    errors = Errors(served, prune, torch.rand(8, 2, 3, generator=g), shares)
    plan = between_anchors(anchors, errors, SITES, COSTS, rule="value", price=price, forecast=forecast)
    total = 0.0
    for i, m in itertools.product(range(8), range(2)):
        age = i - max(mark for mark in anchors if mark <= i)
        if age == 0:
            assert plan.steps[i][SITES[m]] == COMPUTE
            continue
        ways = [(float(served[i, m, age - 1]), 0.0, REUSE)]
        if forecast:
            ways.append((float(errors.forecast[i, m, age - 1]), 0.0, Forecast(1)))
        for k, share in enumerate(shares):
            extra = COSTS.module(SITES[m], Partial(share)) - COSTS.module(SITES[m], REUSE)
            ways.append((float(prune[i, m, k, age - 1]), price * extra, Partial(share)))
        error, _, action = min(ways, key=lambda way: way[0] + way[1])
        total += error
        assert plan.steps[i][SITES[m]] == action
    assert plan.error == pytest.approx(total)


def brute_site(errors: Errors, m: int, price: float) -> float:
    """All schedules of one site."""
    best = float("inf")
    choices = [COMPUTE, REUSE, Forecast(1), Partial(0.5)]
    for actions in itertools.product(choices, repeat=errors.steps - 1):
        age, total = 0, price * COSTS.module(SITES[m], COMPUTE)
        for i, action in enumerate(actions, start=1):
            total += price * COSTS.module(SITES[m], action)
            if isinstance(action, Compute):
                age = 0
                continue
            age += 1
            if age > errors.ages:
                total = float("inf")
                break
            table = {Forecast: errors.forecast, Partial: errors.prune[:, :, 0]}.get(type(action), errors.cache)
            total += float(table[i, m, age - 1])
        best = min(best, total)
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("price", [0.0, 0.05, 0.2, 1.0])
def test_site_schedules_are_the_best_there_are(seed: int, price: float) -> None:
    errors = tables(6, 3, seed)
    plan = site_schedules(errors, SITES, COSTS, price=price)
    spent = sum(COSTS.module(site, step[site]) for step in plan.steps for site in SITES)
    expected = sum(brute_site(errors, m, price) for m in range(len(SITES)))
    assert plan.error + price * spent == pytest.approx(expected, rel=1e-5)


def test_a_target_is_reached_and_an_impossible_one_named() -> None:
    errors = tables(10, 3, seed=3)
    plan = to_ratio(lambda price: site_schedules(errors, SITES, COSTS, price=price), COSTS, 1.6)
    assert 1.6 <= plan.ratio(COSTS) < 2.2
    looser = to_ratio(lambda price: site_schedules(errors, SITES, COSTS, price=price), COSTS, 1.2)
    assert looser.error < plan.error
    with pytest.raises(UnreachableError, match="the largest possible is"):
        to_ratio(lambda price: site_schedules(errors, SITES, COSTS, price=price), COSTS, 50)


def test_costs_of_a_step() -> None:
    dense = COSTS.dense
    assert dense == 1 + 4 + 6
    assert COSTS.step({SITES[0]: REUSE}, 1.0) == 1 + 0 + 6
    assert COSTS.step({SITES[0]: Partial(0.75)}, 0.5) == pytest.approx(0.5 * (1 + 3.5 + 6))
    assert COSTS.step({Site("block", "space", 0): REUSE}, 1.0) == 1
    assert COSTS.step({}, 0.0) == 0


def test_sites_served_alike_become_one_place() -> None:
    errors = tables(4, 3, seed=0)
    plan = between_anchors([0, 2], errors, SITES, COSTS, rule="reuse")
    trunk = coarsen(plan, BLOCKS)
    assert trunk.steps[1] == {Span(0, 1): REUSE} and trunk.steps[2] == {Span(0, 1): COMPUTE}
    assert trunk.cost(COSTS) < plan.cost(COSTS)
    other = (Site("attn", "time", 0), Site("mlp", "time", 0))
    mixed = Plan((*plan.steps[:1], plan.steps[1] | {other[0]: REUSE, other[1]: COMPUTE}), 0.0)
    coarse = coarsen(mixed, {**BLOCKS, Site("block", "time", 0): other})
    assert coarse.steps[1] == {Site("block", "space", 0): REUSE, other[0]: REUSE, other[1]: COMPUTE}
    pruned = between_anchors([0, 2], errors, SITES, COSTS, rule="value", price=0.0)
    assert coarsen(pruned, BLOCKS).steps == pruned.steps
