"""SODA's schedule ``network``: which steps call the network, and what is served in between.

Ours. A plan for a budget is at least as good as every plan for a smaller one: by the quality that calibration measured
on the clips of a calibration, by the curve of older priors, or by the expected error.

Shape legend: N steps, A ages (1 to A).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from videoaccel.common.wording import counted
from videoaccel.models.seam import BODY
from videoaccel.planning.anchors import Objective, best_anchors
from videoaccel.planning.fitted import Choice, Fitted
from videoaccel.planning.plan import Plan, UnreachableError
from videoaccel.session.actions import COMPUTE, Action, Combine, Forecast, Place


def forecast_plan(
    served: Tensor,
    measured: Tensor,
    orders: Tensor,
    count: int,
    *,
    objective: Objective,
    distances: Sequence[int] = (),
    exactly: bool = True,
) -> Plan:
    """Taylor forecasts between the best anchors.

    Args:
        served: Weighted errors of serving a step, [N, A].
        measured: These without weights.
        orders: Of the forecasts that err so, [N, A].
        count: Network calls.
        objective: What is minimised.
        distances: Allowed distances between anchors; all if empty.
        exactly: Take so many calls; else fewer where these promise less error.

    Raises:
        UnreachableError: No such anchors exist.
    """
    marks, error = best_anchors(served, count, objective=objective, distances=distances or None)
    for fewer in range(count - 1, 0, -1) if not exactly else ():
        try:
            others, less = best_anchors(served, fewer, objective=objective, distances=distances or None)
        except UnreachableError:
            break
        if less >= error:
            break
        marks, error = others, less
    actions: list[Action] = []
    for i in range(len(served)):
        age = _age(marks, i)
        actions.append(Forecast(int(orders[i, age - 1])) if age else COMPUTE)
    return Plan(_steps(actions), error, _expected(marks, measured))


def fitted_plan(choice: Choice, served: Tensor, measured: Tensor) -> Plan:
    """Combinations of velocities between the anchors that they were fitted for.

    The plan's errors are those of forecasts in their place: what calibration measured of the combinations is the
    quality that is left.

    Args:
        choice: With coefficients.
        served: As in :func:`forecast_plan`.
        measured: Likewise.
    """
    assert choice.fitted is not None
    actions = combinations(choice.fitted, len(served))
    marks = choice.fitted.anchors
    largest = max((float(served[i, age - 1]) for i in range(len(served)) if (age := _age(marks, i))), default=0.0)
    return Plan(_steps(actions), largest, _expected(marks, measured), choice.mean, choice.worst)


def combinations(fitted: Fitted, steps: int) -> list[Action]:
    """What is done in every step.

    >>> combinations(Fitted((0, 1, 3), ((), (1.5, -0.5), ())), 4)
    [Compute(width=1.0), Compute(width=1.0), Combine(weights=(1.5, -0.5), gaps=(1,)), Compute(width=1.0)]
    """
    marks, found = fitted.anchors, []  # type: tuple[int, ...], list[Action]
    for j, (mark, weights) in enumerate(zip(marks, fitted.weights, strict=True)):
        stop = marks[j + 1] if j + 1 < len(marks) else steps
        past = marks[max(0, j + 1 - len(weights)) : j + 1][::-1]
        gaps = tuple(later - before for later, before in pairwise(past))
        found += [COMPUTE, *[Combine(weights, gaps)] * (stop - mark - 1)]
    return found


def _steps(actions: Sequence[Action]) -> tuple[dict[Place, Action], ...]:
    return tuple({BODY: action} for action in actions)


def _age(marks: Sequence[int], i: int) -> int:
    return i - max(mark for mark in marks if mark <= i)


def _expected(marks: Sequence[int], measured: Tensor) -> tuple[dict[Place, float], ...]:
    ages = [_age(marks, i) for i in range(len(measured))]
    known = [min(age, measured.shape[1]) for age in ages]
    return tuple({BODY: float(measured[i, known[i] - 1])} if age else {} for i, age in enumerate(ages))


def by_order(velocity: Tensor, order: int | None, *, up_to: int) -> tuple[Tensor, Tensor]:
    """Errors of forecasts from a table [N, orders, A], and of which order they are, [N, A] each.

    Args:
        velocity: The table.
        order: Which; None for the one that errs least.
        up_to: The highest among which is chosen.
    """
    if order is None:
        found = velocity[:, : up_to + 1].min(1)
        return found.values, found.indices
    return velocity[:, order], torch.full_like(velocity[:, 0], order)


def within(offered: Sequence[Choice], calls: int) -> Choice | None:
    """The best of so many calls at most; None if there is none."""
    return max((one for one in offered if one.calls <= calls), key=lambda one: one.rank, default=None)


def fewest_choice(offered: Sequence[Choice], target: float, *, worst: bool, what: str) -> Choice:
    """The plan of fewest calls that kept a PSNR.

    Args:
        offered: Plans, by rising number of calls.
        target: In dB.
        worst: On the worst clip, not on average.
        what: The target's name.

    Raises:
        UnreachableError: None did.
    """
    quality = [one.worst if worst else one.mean for one in offered]
    for one, value in zip(offered, quality, strict=True):
        if value >= target:
            return one
    best, at = max(zip(quality, (one.calls for one in offered), strict=True))
    raise _not_kept(what, target, f"kept {best:.4g} dB{' of the worst clip' if worst else ''}", calls=at)


def _not_kept(what: str, target: float, best: str, *, calls: int) -> UnreachableError:
    """No plan of calibration has the quality that is wanted; the best one is told."""
    plan = f"the best plan, of {counted(calls, 'network call')}"
    return UnreachableError(
        f"`{what}={target:g}` is out of reach: {plan}, {best} in calibration; a plain run keeps everything"
    )


def no_more_than_helps(curve: Sequence[float], calls: int) -> int:
    """So many network calls, or fewer where the curve is higher."""
    known = {at: value for at in range(1, calls + 1) if (value := quality_at(curve, at)) is not None}
    if calls not in known:
        return calls
    return max(known, key=lambda at: (known[at], -at))


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
        value, calls = max(((value, calls) for calls, value in known), default=(math.nan, 0))
        if value >= target:  # more calls kept less
            return calls
        best = f"kept {value:.4g} dB" if target > 0 else f"had {abs(value):.4g}"
        raise _not_kept(what, abs(target), best, calls=calls)
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
