"""From calibrated errors, costs and a target to an action for every step and place.

Shape legend: N steps, M module sites, K shares of columns, A ages (1 to A); index 0 of an age axis is age 1.

Source: prune-or-reuse between anchors, SODA (arXiv 2603.07057); anchors themselves are in
:mod:`videoaccel.planning.anchors`.
Per-site schedules under a budget in milliseconds are ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from videoaccel.models.seam import Site
from videoaccel.session.actions import COMPUTE, REUSE, Action, Compute, Forecast, Partial, Place, Span
from videoaccel.session.costs import GAIN, Costs, Unit

Rule = Literal["reuse", "paper", "value"]


class Errors(NamedTuple):
    """What serving costs in quality; all weights are in it.

    Attributes:
        cache: Error of reuse by step, site and age, [N, M, A].
        prune: Error of partial computation, [N, M, K, A].
        forecast: Error of a first-order forecast, [N, M, A].
        shares: The K shares of columns.
    """

    cache: Tensor
    prune: Tensor
    forecast: Tensor
    shares: tuple[float, ...]

    @property
    def steps(self) -> int:
        """N."""
        return self.cache.shape[0]

    @property
    def ages(self) -> int:
        """A."""
        return self.cache.shape[2]

    def weighted(self, weights: Tensor) -> "Errors":
        """Times the influence of each step and site on the result [N, M]."""
        w = weights[..., None]
        return Errors(self.cache * w, self.prune * w[..., None], self.forecast * w, self.shares)


@dataclass(frozen=True)
class Plan:
    """An action for every step and place; what is not named is computed.

    Attributes:
        steps: Actions by place, for every step.
        error: The error that the planner expects, in its own unit.
        expected: For every step the relative error expected of each place that is not computed.
        psnr: What calibration clips had on average, in dB; None where no curve holds for the plan.
        worst: What the worst of them had; None where that was not measured.
    """

    steps: tuple[dict[Place, Action], ...]
    error: float
    expected: tuple[Mapping[Place, float], ...] = ()
    psnr: float | None = None
    worst: float | None = None

    def cost(self, costs: Costs) -> float:
        """Of the whole generation."""
        return costs.total(self.steps)

    def ratio(self, costs: Costs) -> float:
        """How many times cheaper than computing everything."""
        return len(self.steps) * costs.dense / self.cost(costs)

    @property
    def anchors(self) -> list[int]:
        """Steps in which everything is computed."""
        return [i for i, step in enumerate(self.steps) if all(isinstance(a, Compute) for a in step.values())]


class UnreachableError(ValueError):
    """The target cannot be reached.

    Args:
        text: What to say.
        largest: The largest that can, of a target that is a ratio.
    """

    def __init__(self, text: str, largest: float | None = None) -> None:
        super().__init__(text)
        self.largest = largest


def unreachable(target: float, largest: float, unit: Unit) -> UnreachableError:
    """What to say of a target that is too high."""
    most = math.floor(100 * largest + 1e-6) / 100  # what is named can be had
    text = f"{target:g} times {GAIN[unit]} cannot be reached: the largest possible is {most:.2f}"
    return UnreachableError(text, largest)


def between_anchors(
    anchors: Sequence[int],
    errors: Errors,
    sites: Sequence[Site],
    costs: Costs,
    *,
    rule: Rule,
    price: float = 0.0,
    keep: Callable[[float], float] | None = None,
    forecast: bool = False,
) -> Plan:
    """Fill the steps between anchors, site by site: serve, or compute some columns.

    Args:
        anchors: Steps computed in full.
        errors: By step, site and age.
        sites: The M sites.
        costs: For ``value``.
        rule: ``reuse`` always serves. ``paper`` computes the share ``keep`` of columns where the prune error of the
            step before at age 1 is below the cache error (SODA, as printed); a share of 0 or less serves. ``value``
            (ours) takes the share that saves most error after its cost times ``price``.
        price: Error that one unit of cost must save.
        keep: From the site's cache error, normalised over all served places, to the share to compute.
        forecast: Serve by forecast where its error is the smaller one.
    """
    marks = sorted(anchors)
    steps: list[dict[Place, Action]] = []
    error = 0.0
    scale = float(errors.cache[..., 0].mean()) or 1.0
    extra = _extra(errors, sites, costs) if rule == "value" else None
    prune = errors.prune.tolist() if rule == "paper" else []
    for i in range(errors.steps):
        if i in marks:
            steps.append(dict.fromkeys(sites, COMPUTE))
            continue
        age = i - max(mark for mark in marks if mark < i)
        cuts: Sequence[_Cut | None] = [None] * len(sites)
        served, actions = _served(errors, i, age, forecast=forecast)
        if rule == "paper":
            assert keep is not None
            before, now = prune[max(i - 1, 0)], prune[i]
            cuts = [
                _as_published(errors.shares, before[m], now[m], age, cost, keep(cost / scale))
                for m, cost in enumerate(served)
            ]
        elif extra is not None:
            cuts = _worth_it(errors, i, age, torch.tensor(served, dtype=torch.float64), price * extra)
        found = [cut or plain for cut, plain in zip(cuts, zip(actions, served, strict=True), strict=True)]
        steps.append({site: action for site, (action, _) in zip(sites, found, strict=True)})
        error = sum((cost for _, cost in found), start=error)
    return Plan(tuple(steps), error)


_Cut: TypeAlias = tuple[Action, float]
"""What is done instead of serving, and its error."""


def _served(errors: Errors, i: int, age: int, *, forecast: bool) -> tuple[list[float], list[Action]]:
    """Errors and actions of serving every site."""
    reused: list[float] = errors.cache[i, :, age - 1].tolist()
    if not forecast:
        return reused, [REUSE] * len(reused)
    ahead: list[float] = errors.forecast[i, :, age - 1].tolist()
    better = [a < r for a, r in zip(ahead, reused, strict=True)]
    actions: list[Action] = [Forecast(1) if b else REUSE for b in better]
    return [min(a, r) for a, r in zip(ahead, reused, strict=True)], actions


def _as_published(
    shares: Sequence[float],
    before: Sequence[Sequence[float]],
    now: Sequence[Sequence[float]],
    age: int,
    served: float,
    wanted: float,
) -> _Cut | None:
    """SODA's rule; None to serve. A site's prune errors in the step before and in this one, by share and age."""
    if wanted >= 1:
        return COMPUTE, 0.0
    if wanted <= 0:
        return None
    k = min(range(len(shares)), key=lambda k: abs(shares[k] - wanted))
    if before[k][0] < served:
        return Partial(shares[k]), now[k][age - 1]
    return None


def _extra(errors: Errors, sites: Sequence[Site], costs: Costs) -> Tensor:
    """What computing each share costs over serving, [M, K]."""
    rows = [[costs.module(s, Partial(k)) - costs.module(s, REUSE) for k in errors.shares] for s in sites]
    return torch.tensor(rows, dtype=torch.float64)


def _worth_it(errors: Errors, i: int, age: int, served: Tensor, paid: Tensor) -> list[_Cut | None]:
    """For every site the share whose error and price [M, K] are least, where they are below serving's [M]."""
    left = errors.prune[i, :, :, age - 1].double()
    total, best = (left + paid).min(dim=1)
    shares = [Partial(share) for share in errors.shares]
    return [
        (shares[k], error) if better else None
        for k, error, better in zip(
            best.tolist(), left.gather(1, best[:, None])[:, 0].tolist(), (total < served).tolist(), strict=True
        )
    ]


# Each site for itself -----------------------------------------------------------------------------------------------


def site_schedules(
    errors: Errors, sites: Sequence[Site], costs: Costs, *, price: float, partial: bool = True, forecast: bool = True
) -> Plan:
    """Every site's best schedule where one unit of cost is worth ``price`` of error: a small dynamic program each.

    The state is the slot's age; compute makes it young, all else lets it grow by a step.
    """
    options = _options(errors, sites, costs, partial=partial, forecast=forecast)
    steps, count, ages = errors.steps, len(sites), errors.ages
    # value[m, a]: least error plus price * cost from step i on, with a slot of age a before step i (0: fresh).
    value = torch.zeros(count, ages + 1, dtype=torch.float64)
    choices = torch.zeros(steps, count, ages + 1, dtype=torch.long)
    compute = price * torch.tensor([costs.module(site, COMPUTE) for site in sites], dtype=torch.float64)
    for i in reversed(range(steps)):
        best = (compute + value[:, 0])[:, None].expand(-1, ages + 1).clone()
        picked = torch.zeros(count, ages + 1, dtype=torch.long)
        for number, (_, error, cost) in enumerate(options, start=1):
            # Served with a slot that was ``a`` old before: its age is now a + 1.
            after = torch.cat([value[:, 1:], torch.full((count, 1), float("inf"), dtype=torch.float64)], dim=1)
            now = torch.cat([error[i], torch.full((count, 1), float("inf"), dtype=torch.float64)], dim=1)
            total = now + price * cost[:, None] + after
            better = total < best
            best, picked = torch.where(better, total, best), torch.where(better, number, picked)
        if i == 0:  # nothing is stored yet
            picked = torch.zeros_like(picked)
        value, choices[i] = best, picked
    return _follow(choices, options, errors, sites)


class _Option(NamedTuple):
    action: Action
    error: Tensor
    cost: Tensor


def _options(errors: Errors, sites: Sequence[Site], costs: Costs, *, partial: bool, forecast: bool) -> list[_Option]:
    """Everything but computing: action, error [N, M, A], cost [M]."""

    def cost(action: Action) -> Tensor:
        return torch.tensor([costs.module(site, action) for site in sites], dtype=torch.float64)

    found = [_Option(REUSE, errors.cache.double(), cost(REUSE))]
    if forecast:
        found.append(_Option(Forecast(1), errors.forecast.double(), cost(Forecast(1))))
    if partial:
        found += [
            _Option(Partial(share), errors.prune[:, :, k].double(), cost(Partial(share)))
            for k, share in enumerate(errors.shares)
        ]
    return found


def _follow(choices: Tensor, options: Sequence[_Option], errors: Errors, sites: Sequence[Site]) -> Plan:
    """Walk the tables forward."""
    age = [0] * len(sites)
    steps: list[dict[Place, Action]] = []
    total = 0.0
    for i in range(errors.steps):
        chosen: dict[Place, Action] = {}
        for m, site in enumerate(sites):
            number = int(choices[i, m, age[m]])
            if number == 0:
                chosen[site], age[m] = COMPUTE, 0
                continue
            option = options[number - 1]
            total += float(option.error[i, m, age[m]])
            chosen[site], age[m] = option.action, age[m] + 1
        steps.append(chosen)
    return Plan(tuple(steps), total)


def expected_errors(
    steps: Sequence[Mapping[Place, Action]], errors: Errors, sites: Sequence[Site]
) -> tuple[dict[Place, float], ...]:
    """What calibration measured of each action that is not to compute: by step and site."""
    last = dict.fromkeys(sites, 0)
    found: list[dict[Place, float]] = []
    for i, step in enumerate(steps):
        now: dict[Place, float] = {}
        for m, site in enumerate(sites):
            action = step.get(site, COMPUTE)
            if isinstance(action, Compute):
                last[site] = i
            elif i - last[site] <= errors.ages:
                now[site] = float(_measured(errors, action)[i, m, i - last[site] - 1])
        found.append(now)
    return tuple(found)


def _measured(errors: Errors, action: Action) -> Tensor:
    """The table of an action, [N, M, A]."""
    if isinstance(action, Partial):
        k = min(range(len(errors.shares)), key=lambda k: abs(errors.shares[k] - action.keep))
        return errors.prune[:, :, k]
    return errors.forecast if isinstance(action, Forecast) else errors.cache


# Targets ------------------------------------------------------------------------------------------------------------


def to_ratio(make: Callable[[float], Plan], costs: Costs, ratio: float, *, rounds: int = 80) -> Plan:
    """The plan of least error that is at least ``ratio`` times cheaper than computing everything.

    Args:
        make: From the price of cost to a plan; the higher the price, the cheaper the plan.
        costs: What is counted.
        ratio: The target.
        rounds: Bisections of the price, at most; they end where nothing is left to divide.

    Raises:
        UnreachableError: Names the largest ratio that can be reached.
    """
    cheapest = make(1e30)
    if cheapest.ratio(costs) < ratio:
        raise unreachable(ratio, cheapest.ratio(costs), costs.unit)
    best, low, high = cheapest, 1e-60, 1e30
    if (free := make(0.0)).ratio(costs) >= ratio:
        return free
    for _ in range(rounds):
        if high <= low * (1 + 1e-12):
            break
        middle = (low * high) ** 0.5
        plan = make(middle)
        if plan.ratio(costs) >= ratio:
            best, high = plan, middle
        else:
            low = middle
    return best


def coarsen(plan: Plan, blocks: Mapping[Site, tuple[Site, ...]]) -> Plan:
    """Let one residual stand for all modules that are served alike in every step: the trunk's, or a block's.

    Less is stored and added; the result differs a little, since a residual is served behind the gates, not before.
    """
    every = [site for modules in blocks.values() for site in modules]
    if _alike(plan, every):
        span = Span(0, len(blocks))
        steps: list[dict[Place, Action]] = [{span: step.get(every[0], COMPUTE)} for step in plan.steps]
        return Plan(tuple(steps), plan.error, plan.expected)
    uniform = {block: modules for block, modules in blocks.items() if _alike(plan, modules)}
    merged = []
    for step in plan.steps:
        alone = {site for modules in uniform.values() for site in modules}
        kept = {place: action for place, action in step.items() if place not in alone}
        merged.append(kept | {block: step.get(modules[0], COMPUTE) for block, modules in uniform.items()})
    return Plan(tuple(merged), plan.error, plan.expected)


def _alike(plan: Plan, sites: Sequence[Site]) -> bool:
    """Whether in every step the sites share one action, and none computes some columns only."""
    actions = [[step.get(site, COMPUTE) for site in sites] for step in plan.steps]
    return all(len(set(step)) == 1 and not isinstance(step[0], Partial) for step in actions)
