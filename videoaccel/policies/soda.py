"""SODA: anchors from calibrated errors, and between them for every module the choice to serve or to prune.

Source: SODA (CVPR 2026, arXiv 2603.07057), written from published descriptions; no code was released. It was published
for images and, in one table, for Open-Sora. What is ours is marked: columns instead of tokens, the rule ``value``,
influence weights, per-site schedules, forecasts, minimax, budgets in milliseconds.

Shape legend: R generation rows, B samples, N steps, M sites, K shares, A ages, T frames, S places, C channels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from videoaccel.common.wording import counted
from videoaccel.models.seam import Site
from videoaccel.planning import fitted
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
from videoaccel.policies._soda_network import (
    by_order,
    fewest_calls,
    fewest_choice,
    fitted_plan,
    forecast_plan,
    no_more_than_helps,
    quality_at,
    within,
)
from videoaccel.session.columns import Select
from videoaccel.session.costs import Costs, Unit
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import NoTableError, Policy, Probe, Session

CURVES = {"min_psnr": ("soda.psnr", 1.0), "max_lpips": ("soda.lpips", -1.0)}
"""Targets in quality: the calibrated table, quality by number of network calls, and whether more is better."""

BEST_UP_TO = 2
"""Highest order among which ``order: best`` chooses; third order gained nothing, and reaches far where it fails."""

QUALITIES = ("min_psnr", "min_worst_psnr", "max_lpips")
"""Fields that aim at a quality."""

_DRAWN_FOR = ("schedule", "order", "distances", "objective", "influence")


class Soda(Policy):
    """Compute anchors in full; between them serve each module or compute some of its columns, as calibrated errors say.

    One target is given, ``anchors``, ``flops_ratio``, ``speedup``, ``min_psnr``, ``min_worst_psnr`` or ``max_lpips``;
    if none is, a ``flops_ratio`` of 2. As published, so for the rule ``paper``, ``anchors`` and a ratio may come
    together: then the offset of the shares that are computed between anchors, ``keep_base``, follows from the ratio.
    """

    knob: ClassVar[str] = "flops_ratio"
    sweep: ClassVar[tuple[float, ...]] = (1.3, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
    needs: ClassVar[tuple[str, ...]] = ("soda.cache", "soda.prune", "soda.forecast", "soda.velocity")
    uses: ClassVar[tuple[str, ...]] = ("influence.site", "influence.step")
    later: ClassVar[tuple[str, ...]] = ("min_worst_psnr",)

    all_or_nothing: ClassVar[bool] = True

    anchors: int | None = Field(None, ge=1, description="Steps computed in full.")
    flops_ratio: float | None = Field(None, ge=1, description="How many times fewer FLOPs.")
    speedup: float | None = Field(None, ge=1, description="How many times faster on this machine.")
    min_psnr: float | None = Field(None, gt=0, description="As fast as calibrated clips keep this PSNR on average, dB.")
    min_worst_psnr: float | None = Field(
        None, gt=0, description="As fast as the worst of the held-out clips kept this PSNR, dB."
    )
    max_lpips: float | None = Field(None, gt=0, description="As fast as calibrated clips keep within this LPIPS.")
    schedule: Literal["network", "modules", "sites"] = Field(
        "network",
        description="Between anchors serve the velocity, or every module by its own rule; or a schedule for each site.",
    )
    order: Literal["best", "fitted", "taylor"] | Annotated[int, Field(ge=0, lt=ORDERS)] = Field(
        "best",
        description="What serves a velocity, for the schedule network: fitted combinations of the last ones, Taylor "
        "forecasts of the order 0, 1 or 2 that errs least in each step, or always of this one; best: fitted or taylor, "
        "whichever kept more in calibration.",
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
        targets = ("anchors", "flops_ratio", "speedup", *QUALITIES)
        given = [name for name in targets if getattr(self, name) is not None]
        published = (self.schedule, self.rule) == ("modules", "paper") and set(given) < {*targets[:3]}
        if len(given) > 1 and not (published and len(given) == 2 and self.anchors is not None):
            raise ValueError(f"give one target, not {' and '.join(given)}")
        if given and given[0] in QUALITIES and self._off_curve:
            raise ValueError(
                f"{given[0]} holds for the default {self._off_curve[0]} only: its curve was measured with that"
            )
        if self.order == "fitted" and self._off_curve:
            name = self._off_curve[0]
            raise ValueError(f"steps are fitted for the default {name} only, not for {getattr(self, name)}")
        if self.schedule == "sites" and self.anchors is not None:
            raise ValueError("a schedule for each site has no anchors; give flops_ratio or speedup")
        return self

    @property
    def _off_curve(self) -> list[str]:
        """Fields that make it another method than those whose quality was measured."""
        changed = [name for name in _DRAWN_FOR if getattr(self, name) != type(self).model_fields[name].default]
        return [name for name in changed if name != "order" or isinstance(self.order, int)]

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

    def check_tables(self, tables: Mapping[str, Tensor], *, steps: int) -> None:
        """See :meth:`Policy.check_tables`; what other schedules can reach depends on costs, too."""
        if self.schedule == "network":
            self.network(tables, steps)

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
        aimed = self.anchors or any(getattr(self, name) for name in QUALITIES)
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
        required: tuple[str, ...] = ("soda.velocity", "influence.step") if self.influence else ("soda.velocity",)
        _require(tables, (*required, *(fitted.TABLES if self.order == "fitted" else ())), method="soda")
        order = self.order if isinstance(self.order, int) else None
        measured, orders = by_order(tables["soda.velocity"], order, up_to=BEST_UP_TO)
        if len(measured) != steps:
            raise ValueError(f"the prior was made for {counted(len(measured), 'step')}, here are {steps}")
        served = measured * tables["influence.step"][:, None] if self.influence else measured
        choice, count = self._choice(tables, steps)
        if choice is not None and choice.fitted is not None:
            return fitted_plan(choice, served, measured)
        aims = {"objective": self.objective, "distances": self.distances}
        fixed = self._budget[1] is None or choice is not None
        try:
            plan = forecast_plan(served, measured, orders, count, exactly=fixed, **aims)  # type: ignore[arg-type]
        except UnreachableError:
            unit, target = self._budget
            if target is None:
                raise
            fewest = next(n for n in range(1, steps + 1) if _possible(served, n, self.distances))
            raise unreachable(target, steps / fewest, unit) from None
        if choice is not None:
            return replace(plan, psnr=choice.mean, worst=choice.worst)
        curve = None if self._off_curve else tables.get("soda.psnr")
        return replace(plan, psnr=None if curve is None else quality_at(curve.tolist(), len(plan.anchors)))

    def _choice(self, tables: Mapping[str, Tensor], steps: int) -> tuple[fitted.Choice | None, int]:
        """The plan to take of those whose quality was measured, if one of them is; and how often the network runs."""
        kinds = {"taylor": self.order != "fitted", "fitted": self.order != "taylor"}
        offered = [] if self._off_curve else fitted.choices(tables, **kinds)
        for name in QUALITIES:
            if (target := getattr(self, name)) is None:
                continue
            if name == "min_worst_psnr":
                _require(tables, (fitted.QUALITY,), method="soda")
            if offered and name != "max_lpips":
                kept = fewest_choice(offered, target, worst=name == "min_worst_psnr", what=name)
                return kept, kept.calls
            table, sign = CURVES[name]
            _require(tables, (table,), method="soda")
            return None, fewest_calls((sign * tables[table]).tolist(), sign * target, what=name)
        if self.anchors is not None:
            return fitted.exactly(tables, self.anchors, **kinds) if offered else None, self.anchors
        count = int(steps / (self._budget[1] or 2.0))
        if (choice := within(offered, count)) is not None and count < steps:
            return choice, choice.calls
        if self._off_curve or "soda.psnr" not in tables:
            return None, count
        return None, no_more_than_helps(tables["soda.psnr"].tolist(), count)

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
        how = {"lpips": ", with the weights of AlexNet", "fitted": " with --fit-samples 24"}
        raise NoTableError(
            f"{method} needs the calibrated table {missing[0]}, which is not there for this model and setting; "
            f"videoaccel calibrate measures it{next((text for part, text in how.items() if part in missing[0]), '')}"
        )


def _possible(served: Tensor, count: int, distances: tuple[int, ...]) -> bool:
    try:
        best_anchors(served, count, distances=distances or None)
    except UnreachableError:
        return False
    return True
