"""Outputs kept of each stream, and the weights with which they make up one that is not computed."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videoaccel.adapters.outputs import Output, combined
from videoaccel.adapters.rule import Course, Serve, Space
from videoaccel.policies._sada_stability import lagrange


class Kept(NamedTuple):
    """A computed output.

    Attributes:
        i: Number of its evaluation in the segment.
        output: The output.
        x: The latent that the network was given, where it is needed.
    """

    i: int
    output: Output
    x: Tensor | None = None


class History:
    """The last outputs of each stream.

    Attributes:
        peak_bytes: Most memory that was held.
    """

    def __init__(self, keeps: int) -> None:
        self.keeps, self.peak_bytes = keeps, 0
        self._kept: dict[Hashable, list[Kept]] = {}
        self._counts: dict[Hashable, int] = {}

    @property
    def nbytes(self) -> int:
        """Memory held now."""
        held = (kept for stream in self._kept.values() for kept in stream)
        return sum(kept.output.nbytes + (0 if kept.x is None else kept.x.nbytes) for kept in held)

    def of(self, stream: Hashable) -> list[Kept]:
        """A stream's outputs, the newest first."""
        return self._kept.get(stream, [])

    def add(self, stream: Hashable, kept: Kept) -> None:
        """Keep an output, and no more than ``keeps``. A second one of an evaluation replaces the first."""
        others = [other for other in self.of(stream) if other.i != kept.i]
        if any(other.output.form != kept.output.form for other in others):
            others = []
        self._counts[stream] = self._counts.get(stream, 0) + 1 if others else 1
        self._kept[stream] = [kept, *others][: self.keeps]
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def count(self, stream: Hashable) -> int:
        """How many evaluations in a row a stream was computed in, as far as it was asked."""
        return self._counts.get(stream, 0)

    @property
    def least(self) -> int:
        """The smallest :meth:`count` of all streams; 0 if there are none."""
        return min(self._counts.values(), default=0)

    def forget(self, stream: Hashable) -> None:
        """Drop a stream."""
        self._kept.pop(stream, None)
        self._counts.pop(stream, None)

    @property
    def streams(self) -> list[Any]:
        """Those of which something is kept."""
        return list(self._kept)

    def only(self, streams: set[Any]) -> None:
        """Drop all others: they did not occur in an evaluation that was computed."""
        for stream in [stream for stream in self._counts if stream not in streams]:
            self.forget(stream)

    def clear(self) -> None:
        """Drop all."""
        self._kept, self._counts = {}, {}


def choose(serve: Serve, kept: Sequence[Kept], i: int) -> tuple[list[Kept], list[float]] | None:
    """Outputs and their weights that make up the output of evaluation ``i``; None if one that is wanted is not kept."""
    if serve.weights is not None:
        by_number = {one.i: one for one in kept}
        if not serve.weights or any(number not in by_number for number in serve.weights):
            return None
        chosen = [by_number[number] for number in sorted(serve.weights, reverse=True)]
        return chosen, [serve.weights[one.i] for one in chosen]
    if not kept:
        return None
    if serve.along is None:
        chosen = list(kept[: serve.order + 1])
        return chosen, differences(i, [one.i for one in chosen])
    along = serve.along
    chosen = _distinct(kept, along.__getitem__)[: serve.order + 1]
    return chosen, lagrange(along[i], [along[one.i] for one in chosen])


def made_up(
    kept: Sequence[Kept],
    weights: Sequence[float],
    x: Tensor | None,
    *,
    i: int,
    course: Course,
    space: Space | None = None,
    held_from: int | None = None,
) -> Output:
    """The output of evaluation ``i``, of outputs with weights.

    Args:
        kept: The outputs.
        weights: Of each.
        x: The latent that the network would have been given, where the call shows it.
        i: The evaluation's number in the segment.
        course: The segment's evaluations.
        space: In what to combine them; None for outputs as they are.
        held_from: See :func:`videoaccel.adapters.outputs.combined`.
    """
    places, leaf = course.places, kept[0].output.leaves[0]
    if space is None or x is None or _latent_part(x, leaf).shape != leaf.shape:
        return combined([one.output for one in kept], weights, held_from=held_from)
    total = torch.zeros((), device=leaf.device)
    for one, weight in zip(kept, weights, strict=True):
        assert one.x is not None  # the stream's signature has the latent's shape
        total = total + weight * space.known(places[one.i], _latent_part(one.x, leaf), one.output.leaves[0])
    told = space.output(places[i], _latent_part(x, leaf), total).to(leaf.dtype)
    return Output((told, *kept[0].output.leaves[1:]), kept[0].output.form)


def differences(at: float, marks: Sequence[float]) -> list[float]:
    """Weights of values at ``marks``, the newest first, in TaylorSeer's forecast (arXiv 2503.06923) for ``at``.

    The j-th derivative is the change of the one before over the distance of the last two marks.

    >>> differences(4, [3, 2]), differences(4, [3])
    ([2.0, -1.0], [1.0])
    >>> differences(4, [3, 2, 1])
    [2.5, -2.0, 0.5]
    """
    count = len(marks)
    rows = [[float(k == place) for k in range(count)] for place in range(count)]  # newest first
    total, factor = list(rows[0]), 1.0
    for j in range(1, count):
        rows = [
            [
                (new - old) / (marks[place] - marks[place + 1])
                for new, old in zip(rows[place], rows[place + 1], strict=True)
            ]
            for place in range(count - j)
        ]
        factor *= (at - marks[0]) / j
        total = [one + factor * change for one, change in zip(total, rows[0], strict=True)]
    return total


def _latent_part(x: Tensor, output: Tensor) -> Tensor:
    """The latent among the input's channels: what it is to paint into comes behind."""
    return x[:, : output.shape[1]]


def _distinct(kept: Sequence[Kept], place: Callable[[int], float]) -> list[Kept]:
    """Without older outputs at a place that was taken already: a polynomial has one value there."""
    found: list[Kept] = []
    for one in kept:
        if all(place(one.i) != place(other.i) for other in found):
            found.append(one)
    return found
