"""SODA: anchors from calibrated errors, and between them for every module the choice to serve or to prune.

Source: SODA (CVPR 2026, arXiv 2603.07057), written from published descriptions; no code was released. It was published
for images and, in one table, for Open-Sora. What is ours is marked: columns instead of tokens, the rule ``value``,
influence weights, per-site schedules, forecasts, minimax, budgets in milliseconds.

Shape legend: R generation rows, B samples, N steps, M sites, K shares, A ages, T frames, S places, C channels.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from videoaccel.action_session import ActionSession, Seen
from videoaccel.actions import COMPUTE, Action, Compute, Forecast, Place, Span, reads
from videoaccel.columns import Select, choose, score
from videoaccel.costs import Costs
from videoaccel.models.seam import Site, Work
from videoaccel.plan import (
    Errors,
    Objective,
    Plan,
    Rule,
    UnreachableError,
    best_anchors,
    between_anchors,
    coarsen,
    site_schedules,
    to_ratio,
)
from videoaccel.policy import Job, Mix, Policy, Probe, Session, local_mix

AGES = 5
"""Greatest age that is calibrated: intervals up to 6 steps."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of columns for which the prune error is calibrated."""


class Soda(Policy):
    """Compute anchors in full; between them serve each module or compute some of its columns, as calibrated errors say.

    One target is given: ``anchors``, ``flops_ratio`` or ``speedup``.
    """

    knob: ClassVar[str] = "flops_ratio"
    sweep: ClassVar[tuple[float, ...]] = (1.3, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
    needs: ClassVar[tuple[str, ...]] = ("soda.cache", "soda.prune", "soda.forecast")

    anchors: int | None = Field(None, ge=1, description="Steps computed in full.")
    flops_ratio: float | None = Field(None, ge=1, description="How many times fewer FLOPs.")
    speedup: float | None = Field(None, ge=1, description="How many times faster on this machine.")
    schedule: Literal["anchors", "sites"] = Field("anchors", description="One schedule for all, or one for each site.")
    distances: tuple[int, ...] = Field((), description="Allowed distances between anchors; all if empty.")
    objective: Objective = "additive"
    rule: Rule = "value"
    influence: bool = Field(False, description="Weight errors by their calibrated influence on the result.")
    forecast: bool = Field(False, description="Serve by first-order forecast where that errs less.")
    keep_slope: float = Field(0.5, description="Lambda of the paper: how the share grows with the cache error.")
    keep_base: float = Field(0.25, ge=0, le=1, description="Beta of the paper.")
    keep_min: float = Field(0.125, gt=0, le=1)
    select: Select = "signed"
    keys: Literal["kept", "all"] = "all"
    groups: int = Field(8, ge=1)
    slots: Literal["modules", "coarsest"] = Field("modules", description="One residual where a block is served alike.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("anchors", "flops_ratio", "speedup") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of anchors, flops_ratio and speedup, not {' and '.join(given)}")
        if self.schedule == "sites" and self.anchors is not None:
            raise ValueError("a schedule for each site has no anchors; give flops_ratio or speedup")
        return self

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe:
        """Measures cache, prune and forecast errors."""
        return ErrorProbe(job, mix=mix)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return PlanSession(self, self.plan(job), job, mix)

    def plan(self, job: Job) -> Plan:
        """The actions of a generation.

        Raises:
            ValueError: There is no prior, or the target cannot be reached.
        """
        assert job.costs is not None
        sites = [site for modules in job.blocks.values() for site in modules]
        errors = self._errors(job)
        costs = job.costs("flops" if self.speedup is None else "ms")
        target = self.flops_ratio or self.speedup or (None if self.anchors else 2.0)
        if self.schedule == "sites":
            assert target is not None
            return self._coarse(
                to_ratio(
                    lambda price: site_schedules(
                        errors, sites, costs, price=price, partial=self.rule != "reuse", forecast=self.forecast
                    ),
                    costs,
                    target,
                ),
                job,
            )
        return self._coarse(self._anchored(errors, sites, costs, target), job)

    def _errors(self, job: Job) -> Errors:
        prior = tables_of(job, self.needs, method="soda")
        errors = Errors(prior["soda.cache"], prior["soda.prune"], prior["soda.forecast"], SHARES)
        if errors.steps != job.steps:
            raise ValueError(f"the prior was made for {errors.steps} steps, here are {job.steps}")
        if not self.influence:
            return errors
        weights = tables_of(job, ("influence.site", "influence.step"), method="soda with influence")
        return errors.weighted(weights["influence.site"] * weights["influence.step"][:, None])

    def _anchored(self, errors: Errors, sites: list[Site], costs: Costs, target: float | None) -> Plan:
        cheapest = torch.minimum(errors.cache, errors.forecast) if self.forecast else errors.cache
        served = cheapest.sum(1)

        def anchored(count: int) -> list[int]:
            return best_anchors(served, count, objective=self.objective, distances=self.distances or None)[0]

        def filled(marks: list[int], price: float) -> Plan:
            return between_anchors(
                marks, errors, sites, costs, rule=self.rule, price=price, keep=self._keep, forecast=self.forecast
            )

        if target is None:
            assert self.anchors is not None
            marks = anchored(self.anchors)
            if self.rule != "value":
                return filled(marks, 0.0)
            # As much pruning as costs a tenth of what serving saves.
            dearest = filled(marks, 1e30).ratio(costs)
            return to_ratio(lambda price: filled(marks, price), costs, 1 + 0.9 * (dearest - 1))
        return self._best_mixture(anchored, filled, errors.steps, costs, target)

    def _best_mixture(self, anchored: Any, filled: Any, steps: int, costs: Costs, target: float) -> Plan:
        """The number of anchors that leaves least error once the rest of the budget is spent on pruning."""
        best: Plan | None = None
        reachable = 1.0
        for count in range(1, steps + 1):
            try:
                marks = anchored(count)
            except UnreachableError:
                continue
            largest = filled(marks, 1e30)
            reachable = max(reachable, largest.ratio(costs))
            if largest.ratio(costs) < target:
                continue
            plan = largest
            if self.rule == "value":
                plan = to_ratio(lambda price, marks=marks: filled(marks, price), costs, target)  # type: ignore[misc]
            if best is None or plan.error < best.error:
                best = plan
        if best is None:
            raise UnreachableError(
                f"a ratio of {target:g} in {costs.unit} cannot be reached: the largest possible is {reachable:.2f}"
            )
        return best

    def _keep(self, sensitivity: float) -> float:
        return min(1.0, max(self.keep_min, self.keep_base + self.keep_slope * sensitivity))

    def _coarse(self, plan: Plan, job: Job) -> Plan:
        return coarsen(plan, job.blocks) if self.slots == "coarsest" else plan


def tables_of(job: Job, names: tuple[str, ...], *, method: str) -> Mapping[str, Tensor]:
    """Calibrated tables that a method cannot do without.

    Raises:
        ValueError: One is missing.
    """
    prior = job.prior or {}
    if missing := [name for name in names if name not in prior]:
        raise ValueError(
            f"{method} needs the calibrated table {missing[0]}, which is not there for this model and setting; "
            f"videoaccel calibrate measures it"
        )
    return prior


class PlanSession(ActionSession):
    """Carries out a plan."""

    def __init__(self, policy: Soda, plan: Plan, job: Job, mix: Mix) -> None:
        places = {place for step in plan.steps for place in step}
        forecasts = any(isinstance(action, Forecast) for step in plan.steps for action in step.values())
        super().__init__(
            job,
            mix=mix,
            spans=[place for place in places if isinstance(place, Span)],
            order=1 if forecasts else 0,
            select=policy.select,
            groups=policy.groups,
        )
        self.plan = plan
        self.decides_blocks = any(isinstance(place, Site) and place.kind == "block" for place in places)
        self.wanted = _wanted(plan)

    def decide(self, place: Place, seen: Seen) -> Action:
        """What the plan says."""
        return self.plan.steps[self.i].get(place, COMPUTE)

    def keeps(self, place: Place) -> bool:
        """Whether the plan serves it later."""
        return (self.i, place) in self.wanted


def _wanted(plan: Plan) -> set[tuple[int, Place]]:
    """Steps and places whose delta is served later on, or is the history of one that is."""
    wanted: set[tuple[int, Place]] = set()
    for place in {place for step in plan.steps for place in step}:
        history: list[int] = []
        for i, step in enumerate(plan.steps):
            action = step.get(place, COMPUTE)
            if isinstance(action, Compute):
                history.append(i)
            elif reads(action):
                order = action.order if isinstance(action, Forecast) else 0
                wanted |= {(mark, place) for mark in history[-1 - order :]}
    return wanted


class ErrorProbe(Probe):
    """Runs densely and compares every module's output with what could have been served instead.

    Keeps the last outputs of every site in the memory of the device: 2 * ages + 1 of them.

    Args:
        job: The generation.
        mix: How tokens are mixed.
        sites: Measure these only; all by default. Several runs with some sites each need less memory.
        select: How columns are chosen.
        keys: What pruned spatial attention looks at.
    """

    def __init__(
        self,
        job: Job,
        *,
        mix: Mix = local_mix,
        sites: frozenset[Site] | None = None,
        select: Select = "signed",
        keys: Literal["kept", "all"] = "all",
        groups: int = 8,
    ) -> None:
        super().__init__(job, mix=mix)
        every = [site for modules in job.blocks.values() for site in modules]
        self.sites = {site: number for number, site in enumerate(every) if sites is None or site in sites}
        self.select: Select = select
        self.keys, self.groups = keys, groups
        self.past: dict[Site, deque[Tensor]] = {site: deque(maxlen=2 * AGES + 1) for site in self.sites}
        shape = (job.samples, job.steps, len(every), AGES)
        self.cache, self.forecast = torch.full(shape, math.nan), torch.full(shape, math.nan)
        self.prune = torch.full((*shape[:3], len(SHARES), AGES), math.nan)

    @property
    def cache_bytes(self) -> int:
        """Memory of the outputs kept."""
        return sum(tensor.nbytes for kept in self.past.values() for tensor in kept)

    def tables(self) -> dict[str, Tensor]:
        """Cosine errors; where no older output exists (the first steps) the error is 1."""
        found = {"soda.cache": self.cache, "soda.prune": self.prune, "soda.forecast": self.forecast}
        return {name: table.nan_to_num(nan=1.0) for name, table in found.items()}

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam: compute, and measure on the way."""
        if site not in self.sites:
            return super().run(site, branch, x, cond)
        module: Any = branch
        h = module.pre(x, cond)
        delta = self.mix(site, module, h, cond)
        self._measure(site, module, x, h, delta, cond)
        self.past[site].appendleft(delta)
        return module.add(x, delta, cond)

    def _measure(self, site: Site, module: Any, x: Tensor, h: Tensor, delta: Tensor, cond: Any) -> None:
        i, m, past = len(self.trace) - 1, self.sites[site], self.past[site]
        if not past:
            return
        parts = []
        for share in SHARES:
            columns = choose(score(x, self.select), share, frames=x.shape[1], groups=self.groups)
            spatial = (site.kind, site.axis) == ("attn", "space") and self.keys == "all"
            options = {"kv": h} if spatial else {}
            parts.append((columns, self.mix(site, module, columns.take(h), cond, **options)))
        for age in range(1, min(AGES, len(past)) + 1):
            old = past[age - 1]
            self.cache[:, i, m, age - 1] = self._error(old, delta)
            for k, (columns, part) in enumerate(parts):
                self.prune[:, i, m, k, age - 1] = self._error(columns.put(old, part), delta)
            # The gap before the anchor: one more than the age, as in a period of that length; less where unknown.
            gap = min(age + 1, len(past) - age)
            ahead = old if gap < 1 else old + (old - past[age + gap - 1]) * (age / gap)
            self.forecast[:, i, m, age - 1] = self._error(ahead, delta)

    def _error(self, served: Tensor, true: Tensor) -> Tensor:
        """1 - cosine over all tokens and channels, the mean over branches; [B] on the CPU."""
        cosine = torch.cosine_similarity(served.flatten(1).float(), true.flatten(1).float(), dim=1)
        return (1 - cosine).view(len(self.job.branches), -1).mean(0).cpu()
