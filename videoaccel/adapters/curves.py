"""From tables as they were measured to the plan of a segment, whatever steps its scheduler takes."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from videoaccel.adapters.planned import OutputPlan, Planned, Step
from videoaccel.adapters.rule import Course, Evaluation, Refused, StepRule
from videoaccel.planning.fitted import FIGURES, HELD, QUALITY, held, to_tables
from videoaccel.planning.forecast_errors import at_noise_levels

Schedule = Callable[[Mapping[str, Tensor], int], Sequence[Step]]
"""From tables for n evaluations, and n, to what becomes of each."""


Plans = dict[tuple[float, ...], OutputPlan | Refused]
"""By noise levels (timesteps, where the scheduler has none), the plans that have been made."""


def rule_of(
    schedule: Schedule, tables: Mapping[str, Tensor], names: Sequence[str], *, plans: Plans | None = None
) -> StepRule:
    """The rule of a segment, planned from tables in its second evaluation, when its course is known.

    Args:
        schedule: Plans.
        tables: As measured, see :meth:`videoaccel.adapters.measured.Measured.tables`.
        names: Of the networks, by their number in the table ``component``.
        plans: Those of the same schedule, tables and names; a new one is put among them.
    """
    made = {} if plans is None else plans

    def plan(now: Evaluation) -> OutputPlan | Refused:
        levels = now.course.sigmas or now.course.times
        if levels not in made:
            made[levels] = anew(now)
        return made[levels]

    def anew(now: Evaluation) -> OutputPlan | Refused:
        try:
            here = for_course(tables, now.course)
            steps = schedule(here, now.n)
        except ValueError as error:
            return Refused(str(error))
        by_network: dict[str, tuple[Step, ...]] = {}
        for number, step in zip(here["component"].tolist(), steps, strict=True):
            name = names[int(number)]
            by_network[name] = (*by_network.get(name, ()), step)
        return OutputPlan(by_network)

    return Planned(plan)


def for_course(tables: Mapping[str, Tensor], course: Course) -> dict[str, Tensor]:
    """Tables for the evaluations of a course: as measured if it is the same, else read off at its noise levels.

    Raises:
        ValueError: It is another, and the measured one has no axis (timesteps occur twice).
    """
    measured, wanted = tables["levels"], torch.tensor(course.sigmas or course.times, dtype=torch.float32)
    if len(measured) == len(wanted) and torch.allclose(wanted, measured, rtol=1e-3, atol=1e-6):
        return dict(tables)
    old, new = measured.tolist(), wanted.tolist()
    nearest = (wanted[:, None] - measured[None]).abs().argmin(1)
    return {
        "soda.velocity": at_noise_levels(tables["soda.velocity"], old, new),
        "lemica.error": _edges(tables["lemica.error"], old, new),
        "magcache.ratio": _ratios(tables["magcache.ratio"], old, new),
        "component": tables["component"][nearest],
        "levels": wanted,
        **_held_at(tables, len(new)),
    }


def _held_at(tables: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """For another number of evaluations, plans that hold evenly spaced outputs.

    Whether they are better than forecasts is taken from what both kept where the same share of evaluations was
    computed; coefficients that were fitted are for the evaluations that they were fitted at.
    """
    if HELD not in tables:
        return {}
    measured = torch.stack([tables[QUALITY][:, 0], tables[HELD]], 1)
    quality = torch.full((count, *measured.shape[1:]), math.nan)
    for kind in range(measured.shape[1]):
        known = [at for at, value in enumerate(measured[:, kind, 0].tolist()) if not math.isnan(value)]
        shares = [(at + 1) / len(measured) for at in known]
        for calls in range(1, count + 1):
            if known and shares[0] <= calls / count <= shares[-1]:
                quality[calls - 1, kind] = torch.tensor(
                    [_between(shares, measured[known, kind, k].tolist(), calls / count) for k in range(len(FIGURES))]
                )
    plans = [held(at + 1, count) for at, value in enumerate(quality[:, 1, 0].tolist()) if not math.isnan(value)]
    return to_tables(plans, quality, steps=count)


def _edges(table: Tensor, old: list[float], new: list[float]) -> Tensor:
    """Errors of holding, which are by the evaluation that is held and how many more it serves, the first of none."""
    by_target = at_noise_levels(_by_target(table)[:, None], old, new)[:, 0]
    count, gaps = len(new), table.shape[1]
    found = table.new_full((count, gaps), torch.inf)
    found[:, 0] = 0.0
    for i in range(count):
        for gap in range(1, min(gaps, count - i)):
            found[i, gap] = by_target[i + gap, gap - 1]
    return found


def _by_target(table: Tensor) -> Tensor:
    """[N, G] by the last evaluation that is served, without the gap of none."""
    found = table.new_full((len(table), table.shape[1] - 1), torch.inf)
    for i in range(len(table)):
        for gap in range(1, min(table.shape[1], len(table) - i)):
            found[i + gap, gap - 1] = table[i, gap]
    return found


def _ratios(table: Tensor, old: list[float], new: list[float]) -> Tensor:
    """Ratios of magnitudes from one evaluation to the next: of the magnitude itself, read off at other levels."""
    logs = table.clamp(min=1e-12).log().cumsum(0).tolist()
    order = sorted(range(len(old)), key=old.__getitem__)
    levels, heights = [old[k] for k in order], [logs[k] for k in order]
    magnitudes = torch.tensor([_between(levels, heights, level) for level in new])
    return torch.cat([torch.ones(1), (magnitudes[1:] - magnitudes[:-1]).exp()])


def _between(levels: Sequence[float], heights: Sequence[float], level: float) -> float:
    if level <= levels[0]:
        return heights[0]
    for k in range(1, len(levels)):
        if level <= levels[k]:
            share = (level - levels[k - 1]) / max(levels[k] - levels[k - 1], 1e-12)
            return heights[k - 1] + share * (heights[k] - heights[k - 1])
    return heights[-1]
