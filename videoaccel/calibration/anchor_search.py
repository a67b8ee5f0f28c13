"""Where the network is called: anchors that leave least error once the steps between them are fitted.

What errors of forecasts say of anchors is a guess, as fitted steps err otherwise; here the accelerated run itself says.
"""

from collections.abc import Iterable, Sequence

from videoaccel.calibration.fitting import Fit


def grown(anchors: Sequence[int], calls: int, steps: int) -> tuple[int, ...]:
    """Anchors and more, each in the middle of the longest gap that is left, of equal ones the last.

    >>> grown((0, 1, 4, 7), 6, 10)
    (0, 1, 4, 5, 7, 8)
    """
    marks = sorted(anchors)
    while len(marks) < calls:
        gap, before = max((end - mark, mark) for mark, end in zip(marks, (*marks[1:], steps), strict=True))
        marks = sorted([*marks, before + gap // 2])
    return tuple(marks)


def error_left(fit: Fit, anchors: Sequence[int]) -> float:
    """Mean logarithm of the clips' squared errors, which is what a mean of decibels is."""
    _, end = fit.along(anchors)
    return float((end - fit.clips.wanted[-1]).square().flatten(1).mean(1).clamp_min(1e-20).log().mean())


def best_of(fit: Fit, candidates: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The candidate that leaves least error."""
    found = dict.fromkeys(tuple(anchors) for anchors in candidates)
    return next(iter(found)) if len(found) == 1 else min(found, key=lambda anchors: error_left(fit, anchors))


def improved(fit: Fit, anchors: Sequence[int], *, rounds: int) -> tuple[int, ...]:
    """Anchors that leave less error than the given ones, each moved by one step where that helps, the rest refitted.

    Takes at most as many network calls a clip and round as there are anchors, squared.

    Args:
        fit: On the clips that decide.
        anchors: Where the search starts.
        rounds: How often every anchor is tried; it ends where none moves.
    """
    best = tuple(anchors)
    least = error_left(fit, best) if rounds else 0.0
    for _ in range(rounds):
        before = best
        for j in range(len(best) - 1, 0, -1):  # from the last on, since what is before is shared
            stop = best[j + 1] if j + 1 < len(best) else fit.clips.steps
            for mark in (best[j] - 1, best[j] + 1):
                if not best[j - 1] < mark < stop:
                    continue
                tried = (*best[:j], mark, *best[j + 1 :])
                if (left := error_left(fit, tried)) < least:
                    best, least = tried, left
        if best == before:
            break
    return best
