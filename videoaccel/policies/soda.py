"""SODA: anchors from calibrated errors, and between them for every module the choice to serve or to prune.

Source: SODA (CVPR 2026, arXiv 2603.07057), written from published descriptions; no code was released. It was published
for images and, in one table, for Open-Sora. What is ours is marked: columns instead of tokens, the rule ``value``,
influence weights, per-site schedules, forecasts, minimax, budgets in milliseconds.

Shape legend: R generation rows, B samples, N steps, M sites, K shares, A ages, T frames, S places, C channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from videoaccel.common.wording import counted
from videoaccel.models.seam import BODY, Site
from videoaccel.planning.anchors import Objective, best_anchors
from videoaccel.planning.budget import within_budget
from videoaccel.planning.forecast_errors import ORDERS
from videoaccel.planning.plan import (
    Errors,
    Plan,
    Rule,
    UnreachableError,
    between_anchors,
    coarsen,
    expected_errors,
    site_schedules,
    to_ratio,
    unreachable,
)
from videoaccel.planning.session import PlanSession
from videoaccel.policies._soda_errors import SHARES, ErrorProbe
from videoaccel.session.actions import COMPUTE, Action, Forecast, Place
from videoaccel.session.columns import Select
from videoaccel.session.costs import Costs, Unit
from videoaccel.session.policy import Job, Mix, NoTableError, Policy, Probe, Session, local_mix

CURVES = {"min_psnr": ("soda.psnr", 1.0), "max_lpips": ("soda.lpips", -1.0)}
"""Targets in quality: the calibrated table, quality by number of network calls, and whether more is better."""

BEST_UP_TO = 2
"""Highest order among which ``order: best`` chooses; third order gained nothing, and reaches far where it fails."""

_DRAWN_FOR = ("schedule", "order", "distances", "objective", "influence")


class Soda(Policy):
    """Compute anchors in full; between them serve each module or compute some of its columns, as calibrated errors say.

    One target is given, ``anchors``, ``flops_ratio``, ``speedup``, ``min_psnr`` or ``max_lpips``; if none is, a
    ``flops_ratio`` of 2. As published, so for the rule ``paper``, ``anchors`` and a ratio may come together: then the
    offset of the shares that are computed between anchors, ``keep_base``, follows from the ratio.
    """

    knob: ClassVar[str] = "flops_ratio"
    sweep: ClassVar[tuple[float, ...]] = (1.3, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
    needs: ClassVar[tuple[str, ...]] = ("soda.cache", "soda.prune", "soda.forecast", "soda.velocity")
    uses: ClassVar[tuple[str, ...]] = ("influence.site", "influence.step")

    all_or_nothing: ClassVar[bool] = True

    anchors: int | None = Field(None, ge=1, description="Steps computed in full.")
    flops_ratio: float | None = Field(None, ge=1, description="How many times fewer FLOPs.")
    speedup: float | None = Field(None, ge=1, description="How many times faster on this machine.")
    min_psnr: float | None = Field(None, gt=0, description="As fast as calibrated clips keep this PSNR on average, dB.")
    max_lpips: float | None = Field(None, gt=0, description="As fast as calibrated clips keep within this LPIPS.")
    schedule: Literal["network", "modules", "sites"] = Field(
        "network",
        description="Between anchors serve the velocity, or every module by its own rule; or a schedule for each site.",
    )
    order: Literal["best"] | Annotated[int, Field(ge=0, lt=ORDERS)] = Field(
        "best",
        description="Of the forecast velocity, for the schedule network: in each step the one of 0, 1 and 2 that errs "
        "least, or always this one.",
    )
    distances: tuple[int, ...] = Field((), description="Allowed distances between anchors; all if empty.")
    objective: Objective = Field("minimax", description="Least sum of errors, or least greatest error.")
    rule: Rule = Field(
        "value", description="Between anchors: serve only, prune as published, or prune by value for cost."
    )
    influence: bool = Field(False, description="Weight errors by their calibrated influence on the result.")
    forecast: bool = Field(False, description="Serve by first-order forecast where that errs less.")
    keep_slope: float = Field(0.5, description="Lambda of the paper: how the share grows with the cache error.")
    keep_base: float = Field(0.25, ge=0, le=1, description="Beta of the paper.")
    keep_min: float = Field(0.125, gt=0, le=1, description="Least share of columns to compute.")
    select: Select = Field("signed", description="How columns are chosen.")
    keys: Literal["kept", "all"] = Field("all", description="What pruned spatial attention looks at.")
    groups: int = Field(8, ge=1, description="Groups that columns fall into.")
    slots: Literal["modules", "coarsest"] = Field("modules", description="One residual where a block is served alike.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        targets = ("anchors", "flops_ratio", "speedup", *CURVES)
        given = [name for name in targets if getattr(self, name) is not None]
        published = (self.schedule, self.rule) == ("modules", "paper") and set(given) < {*targets[:3]}
        if len(given) > 1 and not (published and len(given) == 2 and self.anchors is not None):
            raise ValueError(f"give one target, not {' and '.join(given)}")
        if given and given[0] in CURVES and self._off_curve:
            raise ValueError(
                f"{given[0]} holds for the default {self._off_curve[0]} only: its curve was measured with that"
            )
        if self.schedule == "sites" and self.anchors is not None:
            raise ValueError("a schedule for each site has no anchors; give flops_ratio or speedup")
        return self

    @property
    def _off_curve(self) -> list[str]:
        """Fields that make it another method than that whose curve was measured."""
        return [name for name in _DRAWN_FOR if getattr(self, name) != type(self).model_fields[name].default]

    @classmethod
    def below(cls, **fields: Any) -> Policy:
        """Modules served by forecasts, the best of its schedules below the network's, unless others are asked for."""
        return cls(**{"schedule": "modules", "rule": "reuse", "forecast": True, **fields})

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe:
        """Measures cache, prune and forecast errors."""
        return ErrorProbe(job, mix=mix)

    def coarser(self) -> "Soda | None":
        """One residual where a block is served alike; then one velocity in place of all modules' outputs."""
        if self.schedule != "network" and self.slots == "modules":
            return self.model_copy(update={"slots": "coarsest"})
        return None if self.schedule == "network" else self.model_copy(update={"schedule": "network"})

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "steps" if self.schedule == "network" else "modules"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return PlanSession(self.plan(job), job, mix=mix, select=self.select, groups=self.groups)

    def plan(self, job: Job) -> Plan:
        """The actions of a generation.

        Raises:
            ValueError: There is no prior, or the target cannot be reached.
        """
        if self.schedule == "network":
            return self.network(job.prior or {}, job.steps)
        assert job.costs is not None
        sites = [site for modules in job.blocks.values() for site in modules]
        unit, target = self._budget
        measured, costs = self._measured(job), job.costs(unit)
        errors = self._weighted(measured, job)
        if self.schedule == "sites":
            assert target is not None
            partial = self.rule != "reuse"
            plan = to_ratio(
                lambda price: site_schedules(
                    errors, sites, costs, price=price, partial=partial, forecast=self.forecast
                ),
                costs,
                target,
            )
        else:
            plan = self._anchored(errors, sites, costs, target)
        return self._coarse(replace(plan, expected=expected_errors(plan.steps, measured, sites)), job)

    def _measured(self, job: Job) -> Errors:
        prior = tables_of(job, self.needs[:3], method="soda")
        errors = Errors(prior["soda.cache"], prior["soda.prune"], prior["soda.forecast"], SHARES)
        if errors.steps != job.steps:
            raise ValueError(f"the prior was made for {errors.steps} steps, here are {job.steps}")
        return errors

    def _weighted(self, errors: Errors, job: Job) -> Errors:
        """Errors times their influence on the result, if that shall count."""
        if not self.influence:
            return errors
        weights = tables_of(job, ("influence.site", "influence.step"), method="soda with influence")
        return errors.weighted(weights["influence.site"] * weights["influence.step"][:, None])

    @property
    def _budget(self) -> tuple[Unit, float | None]:
        """The ratio that is aimed at, and of what; None where the number of anchors or a quality is."""
        aimed = self.anchors or self.min_psnr or self.max_lpips
        return "flops" if self.speedup is None else "ms", self.flops_ratio or self.speedup or (None if aimed else 2.0)

    def network(self, tables: Mapping[str, Tensor], steps: int) -> Plan:
        """The schedule ``network``: anchors are calls of the network, and what is between them costs nothing.

        It needs to know nothing of the network but how far forecasts of what it returns are off, so that pipelines
        which are not ours are planned by it, too.

        Args:
            tables: Calibrated ones; ``soda.velocity`` [N, orders, A] at least.
            steps: N.

        Raises:
            NoTableError: A table is missing.
            ValueError: The tables were made for another number of steps, or the target cannot be reached.
        """
        unit, target = self._budget
        needed: tuple[str, ...] = ("soda.velocity", "influence.step") if self.influence else ("soda.velocity",)
        needed += tuple(table for name, (table, _) in CURVES.items() if getattr(self, name) is not None)
        _require(tables, needed, method="soda")
        measured, orders = self._by_order(tables["soda.velocity"])
        served = measured
        if len(served) != steps:
            raise ValueError(f"the prior was made for {counted(len(served), 'step')}, here are {steps}")
        if self.influence:
            served = served * tables["influence.step"][:, None]
        count = self.anchors or self._calls_for_quality(tables) or int(steps / (target or 2.0))
        try:
            marks, error = best_anchors(served, count, objective=self.objective, distances=self.distances or None)
        except UnreachableError:
            if target is None:
                raise
            fewest = next(n for n in range(1, steps + 1) if _possible(served, n, self.distances))
            raise unreachable(target, steps / fewest, unit) from None
        actions: list[dict[Place, Action]] = []
        expected: list[dict[Place, float]] = []
        for i in range(steps):
            age = i - max(mark for mark in marks if mark <= i)
            actions.append({BODY: Forecast(int(orders[i, age - 1])) if age else COMPUTE})
            expected.append({BODY: float(measured[i, age - 1])} if age else {})
        curve = None if self._off_curve else tables.get("soda.psnr")
        psnr = None if curve is None else quality_at(curve.tolist(), len(marks))
        return Plan(tuple(actions), error, tuple(expected), psnr)

    def _by_order(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Errors of forecasts from a table [N, orders, A], and of which order they are, [N, A] each."""
        if self.order == "best":
            found = velocity[:, : BEST_UP_TO + 1].min(1)
            return found.values, found.indices
        return velocity[:, self.order], torch.full_like(velocity[:, 0], self.order)

    def _calls_for_quality(self, tables: Mapping[str, Tensor]) -> int | None:
        """Network calls that keep the quality asked for; None if none is."""
        for name, (table, sign) in CURVES.items():
            if (target := getattr(self, name)) is not None:
                return fewest_calls((sign * tables[table]).tolist(), sign * target, what=name)
        return None

    def _anchored(self, errors: Errors, sites: list[Site], costs: Costs, target: float | None) -> Plan:
        cheapest = torch.minimum(errors.cache, errors.forecast) if self.forecast else errors.cache
        served = cheapest.sum(1)

        def anchored(count: int) -> list[int]:
            return best_anchors(served, count, objective=self.objective, distances=self.distances or None)[0]

        def filled(marks: list[int], price: float) -> Plan:
            return between_anchors(
                marks, errors, sites, costs, rule=self.rule, price=price, keep=self._keep, forecast=self.forecast
            )

        if target is not None and self.anchors is not None:
            marks = anchored(self.anchors)
            return within_budget(marks, errors, sites, costs, slope=self.keep_slope, ratio=target)
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
            if best is not None and self.rule == "value" and filled(marks, 0.0).error >= best.error:
                continue  # not even free pruning makes these anchors better
            if self.rule == "value":
                plan = to_ratio(lambda price, marks=marks: filled(marks, price), costs, target)  # type: ignore[misc]
            if best is None or plan.error < best.error:
                best = plan
        if best is None:
            raise unreachable(target, reachable, costs.unit)
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
    _require(prior, names, method=method)
    return prior


def _require(tables: Mapping[str, Tensor], names: tuple[str, ...], *, method: str) -> None:
    if missing := [name for name in names if name not in tables]:
        raise NoTableError(
            f"{method} needs the calibrated table {missing[0]}, which is not there for this model and setting; "
            f"videoaccel calibrate measures it{', with the weights of AlexNet' if 'lpips' in missing[0] else ''}"
        )


def fewest_calls(quality: Sequence[float], target: float, *, what: str) -> int:
    """Network calls that reach a quality, on a curve measured at some numbers of calls.

    Args:
        quality: By number of calls, the first of one call; NaN where it was not measured. More is better.
        target: The quality wanted.
        what: The target's name.

    Raises:
        UnreachableError: Nothing measured reaches it.

    >>> fewest_calls([math.nan, 20.0, math.nan, math.nan, 32.0], 28.0, what="min_psnr")
    4
    """
    known = [(calls, value) for calls, value in enumerate(quality, start=1) if not math.isnan(value)]
    short = [point for point in known if point[1] < target]
    enough = [point for point in known if not short or point[0] > short[-1][0]]
    if not enough:
        best = abs(max((value for _, value in known), default=math.nan))
        raise UnreachableError(f"{what} {abs(target):g} cannot be kept: the best in calibration was {best:.4g}")
    (calls, value), (below, less) = enough[0], short[-1] if short else (0, math.nan)
    if not short:
        return calls
    return min(calls, below + math.ceil((calls - below) * (target - less) / (value - less)))


def quality_at(quality: Sequence[float], calls: int) -> float | None:
    """What so many network calls keep, on the same curve; None beyond what was measured.

    >>> quality_at([math.nan, 20.0, math.nan, math.nan, 32.0], 3)
    24.0
    """
    known = [(at, value) for at, value in enumerate(quality, start=1) if math.isfinite(value)]
    for (low, less), (high, more) in pairwise(known):
        if low <= calls <= high:
            return less + (more - less) * (calls - low) / (high - low)
    return None


def _possible(served: Tensor, count: int, distances: tuple[int, ...]) -> bool:
    try:
        best_anchors(served, count, distances=distances or None)
    except UnreachableError:
        return False
    return True
