"""Steps served by fitted combinations of velocities: how a prior keeps them, and which of them a plan takes.

For some numbers of network calls a prior has the anchors, the coefficients of every segment from one anchor to the
next, and what both these and Taylor forecasts kept on the clips of a calibration.

Shape legend: N steps, J velocities that are combined.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from videoaccel.common.wording import ranges
from videoaccel.planning.plan import UnreachableError

MOST = 3
"""J, at most: a fourth velocity gained nothing."""

ANCHORS, WEIGHTS, QUALITY = "soda.fitted.anchors", "soda.fitted.weights", "soda.fitted.quality"
TABLES = (ANCHORS, WEIGHTS, QUALITY)
RANK = "soda.fitted.rank"
"""[N, kind], in dB: by it plans are told apart. Budgets go by what all clips kept, which takes more than are held out;
of one budget the kind that kept less of those held out stands below the other. Without it the mean is taken."""
HELD = "soda.fitted.held"
"""[N, figures] of plans that hold evenly spaced outputs, where these were measured by themselves; NaN where not."""
PLAIN = "soda.fitted.plain"
"""[N, figures] of the same scheduler with as many steps as a plan has calls; NaN where it was not measured."""
PREFIX = "soda.fitted."
"""Of tables that hold plans: they are not averaged, and not interpolated."""

KINDS = ("taylor", "fitted")
FIGURES = ("mean", "worst", "spread")
"""Axes of the quality, PSNR in dB: [N, kind, figure], by number of calls from 1 on; NaN where it was not measured."""


class Fitted(NamedTuple):
    """What is computed, and what is served in between.

    Attributes:
        anchors: Steps in which the network is called.
        weights: For each, of what is served up to the next one: coefficients of the velocities of this anchor and
            those before it; none where nothing is served.
    """

    anchors: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]


class Choice(NamedTuple):
    """A plan whose quality was measured.

    Attributes:
        calls: Of the network.
        fitted: Coefficients; None for Taylor forecasts.
        mean: PSNR that clips kept on average, in dB.
        worst: That of the worst clip.
        rank: By which it is told apart from other plans, in dB.
    """

    calls: int
    fitted: Fitted | None
    mean: float
    worst: float
    rank: float


def evenly(calls: int, steps: int) -> tuple[int, ...]:
    """So many anchors, as far apart from one another as from the end.

    >>> evenly(4, 10)
    (0, 2, 5, 8)
    """
    return tuple(round(k * steps / calls) for k in range(calls))


def late(calls: int, steps: int) -> tuple[int, ...]:
    """The first step, and anchors as far apart as those of :func:`evenly` that end with the last step.

    Where noise is high the first steps decide little, and what a step at the end repairs stays repaired.

    >>> late(4, 10)
    (0, 4, 6, 9)
    """
    return (0, *(round(steps - 1 - (calls - 1 - k) * steps / calls) for k in range(1, calls)))


def held(calls: int, steps: int) -> Fitted:
    """Evenly spaced steps are computed, and each output is held up to the next.

    >>> held(2, 4)
    Fitted(anchors=(0, 2), weights=((1.0,), (1.0,)))
    """
    anchors = evenly(calls, steps)
    ends = (*anchors[1:], steps)
    return Fitted(anchors, tuple((1.0,) if end > mark + 1 else () for mark, end in zip(anchors, ends, strict=True)))


def to_tables(found: Sequence[Fitted], quality: Tensor, *, steps: int, rank: Tensor | None = None) -> dict[str, Tensor]:
    """Tables of some fits, by their numbers of calls.

    Args:
        found: One a number of calls.
        quality: [N, kinds, figures].
        steps: N.
        rank: [N, kinds], of all clips; None where all are held out.
    """
    anchors, weights = torch.zeros(steps, steps), torch.zeros(steps, steps, MOST)
    for fit in found:
        row = len(fit.anchors) - 1
        for mark, coefficients in zip(fit.anchors, fit.weights, strict=True):
            anchors[row, mark] = 1
            weights[row, mark, : len(coefficients)] = torch.tensor(coefficients)
    more = {} if rank is None else {RANK: rank}
    return {ANCHORS: anchors, WEIGHTS: weights, QUALITY: quality, **more}


def from_tables(tables: Mapping[str, Tensor], calls: int) -> Fitted | None:
    """The fit for so many network calls; None if there is none."""
    if ANCHORS not in tables or not 1 <= calls <= len(tables[ANCHORS]):
        return None
    marks = tables[ANCHORS][calls - 1].nonzero().flatten().tolist()
    if not marks:
        return None
    ends = (*marks[1:], len(tables[ANCHORS]))
    rows = tables[WEIGHTS][calls - 1]
    weights = [
        tuple(rows[mark, : min(MOST, j + 1)].tolist()) if end > mark + 1 else ()
        for j, (mark, end) in enumerate(zip(marks, ends, strict=True))
    ]
    return Fitted(tuple(marks), tuple(weights))


def choices(tables: Mapping[str, Tensor], *, taylor: bool = True, fitted: bool = True) -> list[Choice]:
    """The plans worth taking, by rising number of calls: none is as good as, or worse than, one of fewer calls.

    Args:
        tables: A prior's.
        taylor: Whether those of Taylor forecasts count.
        fitted: Whether fitted ones do.
    """
    if QUALITY not in tables:
        return []
    found: list[Choice] = []
    for calls in range(1, len(tables[QUALITY]) + 1):
        one = _better(tables, calls, taylor=taylor, fitted=fitted)
        if one is not None and (not found or one.rank > found[-1].rank):
            found.append(one)
    return found


def _better(tables: Mapping[str, Tensor], calls: int, *, taylor: bool, fitted: bool) -> Choice | None:
    """Of the plans of so many calls that which ranks higher."""
    row = tables[QUALITY][calls - 1].tolist()
    kinds = [kind for kind, allowed in enumerate((taylor, fitted)) if allowed and not math.isnan(row[kind][0])]
    if not kinds:
        return None
    rank = tables[RANK][calls - 1].tolist() if RANK in tables else [one[0] for one in row]
    best = max(kinds, key=lambda kind: rank[kind])
    mean, worst, _ = row[best]
    return Choice(calls, from_tables(tables, calls) if best else None, mean, worst, rank[best])


def exactly(tables: Mapping[str, Tensor], calls: int, *, taylor: bool = True, fitted: bool = True) -> Choice | None:
    """The better of the plans of so many calls; None if none was measured, see :func:`choices`.

    Raises:
        UnreachableError: Only fitted ones count, and none was fitted for so many calls.
    """
    found = _better(tables, calls, taylor=taylor, fitted=fitted) if 1 <= calls <= len(tables[QUALITY]) else None
    if found is None and not taylor:
        known = [at + 1 for at, kept in enumerate(tables[QUALITY][:, 1, 0].tolist()) if not math.isnan(kept)]
        raise UnreachableError(f"steps were not fitted for {calls} anchors; they were for {ranges(known)}")
    return found


class Instead(NamedTuple):
    """Plain steps in place of a plan.

    Attributes:
        steps: How many: of those that are no more than the plan's calls, the number that kept most.
        psnr: What they kept of the clips of the calibration, in dB.
        more: Whether that is more than plans of as many network calls kept.
    """

    steps: int
    psnr: float
    more: bool

    def __str__(self) -> str:
        told = f"{self.steps} plain steps kept {self.psnr:.1f} dB of the same clips"
        return f"{told}, more than this plan: here fewer steps are the better choice" if self.more else told


def instead(tables: Mapping[str, Tensor], calls: int, *, steps: int) -> Instead | None:
    """What plain steps kept in place of a plan, as many as it has calls or fewer; None where it was not measured.

    Args:
        tables: A prior's.
        calls: Of the network.
        steps: N, of the generation.
    """
    if PLAIN not in tables or len(tables[PLAIN]) != steps or not 1 <= calls <= steps:
        return None
    kept = tables[PLAIN][:calls, 0]
    if bool(kept[-1].isnan()):
        return None
    best = int(kept.nan_to_num(-math.inf).argmax())
    plans = tables[QUALITY][calls - 1, :, 0].nan_to_num(-math.inf)
    return Instead(best + 1, float(kept[best]), float(kept[best]) > float(plans.max()))
