"""How far forecasts of a network's output are off: measured on dense runs, and carried over to other steps.

What is measured needs nothing but the outputs of one run, so it is the same for our own networks and for pipelines that
are not ours.

Shape legend: B samples, N evaluations, O orders (0 to O - 1), A ages (1 to A); index 0 of an age axis is age 1.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from videoaccel.session.slots import Slot

ORDERS, AGES = 4, 8
"""Orders of forecasts (0 to 3) and ages that are measured."""


def forecast(values: Sequence[Tensor], anchor: int, *, age: int, order: int) -> Tensor:
    """What would be forecast ``age`` evaluations after an anchor, from anchors as far apart as that makes likely.

    Args:
        values: Outputs [B, ...] of all evaluations so far.
        anchor: Number of the last one that is computed.
        age: How far ahead.
        order: Of the forecast, see :class:`videoaccel.session.slots.Slot`.
    """
    gap = max(2, age + 1)
    slot = Slot(values[anchor].shape[0], order=order)
    for step in sorted({max(anchor - k * gap, 0) for k in range(order + 1)}):
        slot.write(step, values[step])
    return slot.read(anchor + age, order=order)


def errors_of(values: Sequence[Tensor], i: int, *, orders: int = ORDERS, ages: int = AGES) -> Tensor:
    """Mean squared error of every forecast of evaluation ``i``, [B, O, A]; infinite where no anchor is that old.

    Args:
        values: Outputs [B, ...] of the evaluations up to ``i``, float32.
        i: Which.
        orders: O.
        ages: A.
    """
    found = torch.full((values[i].shape[0], orders, ages), math.inf)
    for age in range(1, min(ages, i) + 1):
        for order in range(orders):
            ahead = forecast(values, i - age, age=age, order=order)
            found[:, order, age - 1] = (ahead - values[i]).square().flatten(1).mean(1)
    return found


def at_noise_levels(table: Tensor, measured: Sequence[float], wanted: Sequence[float]) -> Tensor:
    """A table of errors for evaluations at other noise levels: another number of steps, or a part of the way.

    A distance between two evaluations counts as many steps as it took of the measured run; between whole ages an error
    grows like a power of the age (below age 1 like that of a forecast's first neglected term), between two measured
    noise levels linearly.

    Args:
        table: Squared errors [N, O, A] at the measured levels.
        measured: Noise levels (or timesteps) of the measured evaluations, falling or rising throughout.
        wanted: Those of the evaluations to plan.

    Returns:
        [len(wanted), O, A]; infinite where that was not measured.

    Raises:
        ValueError: A measured level occurs twice, the levels turn back, or there is one: that is no axis.
    """
    places = _places(measured, wanted)
    found = table.new_full((len(wanted), *table.shape[1:]), math.inf)
    for j, place in enumerate(places):
        for age in range(1, min(table.shape[2], j) + 1):
            found[j, :, age - 1] = _at(table, place, place - places[j - age])
    return found


def _places(measured: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Where levels are among the measured evaluations, as fractions of their numbers."""
    if len(measured) < 2:
        raise ValueError("one measured evaluation gives no axis")
    rising = measured[-1] > measured[0]
    marks = [level if rising else -level for level in measured]
    if any(later <= earlier for earlier, later in pairwise(marks)):
        raise ValueError("the measured noise levels do not fall throughout: errors of other steps cannot be read off")
    places = []
    for level in wanted:
        mark = level if rising else -level
        after = next((k for k, known in enumerate(marks) if known >= mark), len(marks))
        after = min(max(after, 1), len(marks) - 1)  # outside, the first and the last distance go on
        places.append(after - 1 + (mark - marks[after - 1]) / (marks[after] - marks[after - 1]))
    return places


def _at(table: Tensor, place: float, age: float) -> Tensor:
    """Errors [O] at a place between evaluations and at an age between whole ones."""
    place = min(max(place, 0.0), len(table) - 1.0)
    low = math.floor(place)
    rows = [(low, 1 - (place - low)), (low + 1, place - low)]
    total = table.new_zeros(table.shape[1])
    for row, share in rows:
        if share > 0:
            total = total + share * _at_age(table[row], age)
    return total


def _at_age(row: Tensor, age: float) -> Tensor:
    """Errors [O] of a row [O, A] at an age between whole ones."""
    ages = row.shape[1]
    if age < 1:
        powers = torch.tensor([2.0 * (order + 1) for order in range(len(row))], dtype=row.dtype)
        return row[:, 0] * age**powers
    low = min(math.floor(age), ages)
    if age > ages:
        return torch.full_like(row[:, 0], math.inf)
    share = (math.log(age) - math.log(low)) / (math.log(low + 1) - math.log(low))
    if share == 0:
        return row[:, low - 1]
    tiny = torch.finfo(row.dtype).tiny
    below, above = row[:, low - 1].clamp(min=tiny), row[:, low].clamp(min=tiny)
    between = torch.exp(torch.lerp(below.log(), above.log(), share))
    return torch.where(below.isinf() | above.isinf(), math.inf, between)  # lerp makes NaN of what is infinite
