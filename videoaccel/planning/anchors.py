"""Which steps to compute in full, by dynamic programming over the errors of what is served between them.

Sources: additive, SODA (arXiv 2603.07057); minimax over paths, LeMiCa (arXiv 2511.00090).

Shape legend: N steps, A ages (1 to A); index 0 of an age axis is age 1.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from videoaccel.planning.plan import UnreachableError

Objective = Literal["additive", "minimax"]


def segment_errors(served: Tensor) -> Tensor:
    """Error of each segment between anchors.

    Args:
        served: Error of serving a step as a whole, by step and age [N, A].

    Returns:
        [N, A + 2]: at (t, d) the sum over the steps t+1 .. t+d-1 served from an anchor at t; infinite where a segment
        would be longer than the ages known or go past the end.
    """
    steps, ages = served.shape
    table = torch.full((steps, ages + 2), float("inf"), dtype=torch.float64)
    for t in range(steps):
        total = 0.0
        for d in range(1, min(ages + 1, steps - t) + 1):
            if d > 1:
                total += float(served[t + d - 1, d - 2])
            table[t, d] = total
    return table


def best_anchors(
    served: Tensor, count: int, *, objective: Objective = "additive", distances: Sequence[int] | None = None
) -> tuple[list[int], float]:
    """The best ``count`` anchors; the first step always is one.

    Additive minimises the sum of the segments' errors; minimax the largest, then the second largest, and so on.

    Args:
        served: Error of serving a step as a whole, by step and age [N, A].
        count: Ns, number of anchors.
        objective: What is minimised.
        distances: Allowed distances between anchors, and from the last to the end; default all up to A + 1.

    Returns:
        The anchors, and their error: the sum, or the largest segment's.

    Raises:
        UnreachableError: No such anchors exist; says which counts do.
    """
    steps, ages = served.shape
    allowed = sorted(set(distances or range(1, ages + 2)))
    segments = segment_errors(served)
    segment = lambda t, d: float(segments[t, d]) if d < segments.shape[1] else float("inf")  # noqa: E731

    def extend(key: tuple[float, ...], error: float) -> tuple[float, ...]:
        return (key[0] + error,) if objective == "additive" else tuple(sorted((*key, error), reverse=True))

    start: tuple[float, ...] = (0.0,) if objective == "additive" else ()
    layer: dict[int, tuple[tuple[float, ...], list[int]]] = {0: (start, [0])}
    feasible = []
    for size in range(1, steps + 1):
        # The end counts as one more anchor: what is between it and the last one is served too.
        ends = [
            (extend(key, segment(t, steps - t)), path)
            for t, (key, path) in layer.items()
            if steps - t <= ages + 1 and (steps - t in allowed or steps - t < min(allowed))
        ]
        if ends:
            feasible.append(size)
        if size == count and ends:
            key, path = min(ends)
            return path, key[0] if key else 0.0
        layer = _longer(layer, allowed, steps, segment, extend)
    known = f"{feasible[0]} to {feasible[-1]}" if feasible else "none"
    raise UnreachableError(
        f"{count} anchors of {steps} steps are not possible with distances {allowed}; possible: {known}"
    )


def _longer(
    layer: dict[int, tuple[tuple[float, ...], list[int]]],
    allowed: Sequence[int],
    steps: int,
    segment: Callable[[int, int], float],
    extend: Callable[[tuple[float, ...], float], tuple[float, ...]],
) -> dict[int, tuple[tuple[float, ...], list[int]]]:
    """Best paths with one anchor more, by their last anchor."""
    longer: dict[int, tuple[tuple[float, ...], list[int]]] = {}
    for t, (key, path) in layer.items():
        for d in allowed:
            if t + d < steps and segment(t, d) < float("inf"):
                candidate = (extend(key, segment(t, d)), [*path, t + d])
                if t + d not in longer or candidate < longer[t + d]:
                    longer[t + d] = candidate
    return longer
