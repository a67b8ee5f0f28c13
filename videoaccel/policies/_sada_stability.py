"""What SADA knows of one sample: its last computed predictions, how well they could be foretold, what to do next.

A *node* is a prediction that the network computed, at its place on the schedule's axis (sigma of a flow, log-SNR of a
variance-preserving schedule). Forecasts are Lagrange polynomials through the last nodes, on whatever grid they stand;
predicted values never become nodes. Slopes between nodes are divided differences, so steps need not be equally long.

Shape legend: Z latent channels, T latent frames, h, w latent rows and columns (or any other shape of one prediction).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Criterion = Literal["posterior", "ab2", "paper", "official"]

Marked = Literal["all", "apart", "whole"]
"""Degraded predictions are nodes like others; are extrapolated from, but verdicts rest on the others; or are none."""

FLOW_WEIGHTS = (1.0, -2.0, 1.0)
"""Of the newest, the middle and the oldest of three predictions, in their second difference."""


class Node(NamedTuple):
    """A computed prediction, float32 of any shape, and where it was computed.

    Attributes:
        at: Where.
        value: The prediction.
        degraded: Whether a method below this one left something out of it.
    """

    at: float
    value: Tensor
    degraded: bool = False


class Rules(NamedTuple):
    """How a sample is judged.

    Attributes:
        criterion: See :class:`videoaccel.policies.sada.Sada`.
        threshold: Predicted relative error below which a step is skipped (``posterior``).
        terms: Nodes of a forecast.
        max_run: Most skipped steps in a row.
        reach: How far a forecast may reach beyond the newest node, in distances of the last two nodes.
        history: Nodes to keep.
        marked: What predictions count for that a method below has degraded.
    """

    criterion: Criterion
    threshold: float
    terms: int
    max_run: int
    reach: float
    history: int
    marked: Marked = "all"


class Windows(NamedTuple):
    """Steps whose treatment does not hang on a criterion.

    Attributes:
        first: The first step that may be skipped.
        last: The first, near the end, that may not any more.
        late: Where the late regime begins.
        period: Every so many steps it computes one.
    """

    first: int
    last: int
    late: int
    period: int

    def told(self, step: int) -> bool | None:
        """Whether a step is computed; None where a criterion has to say."""
        if not self.first <= step < self.last:
            return True
        return (step - self.late) % self.period == 0 if step >= self.late else None


def lagrange(at: float, marks: Sequence[float]) -> list[float]:
    """Weights with which values at ``marks`` make up the value at ``at`` of the polynomial through them.

    >>> lagrange(3.0, [1.0, 2.0])
    [-1.0, 2.0]
    """
    return [
        math.prod((at - other) / (mark - other) for j, other in enumerate(marks) if j != k)
        for k, mark in enumerate(marks)
    ]


def extrapolate(at: float, nodes: Sequence[Node]) -> Tensor:
    """The value at ``at`` of the polynomial through all these nodes."""
    weights = lagrange(at, [node.at for node in nodes])
    total = weights[0] * nodes[0].value
    for weight, node in zip(weights[1:], nodes[1:], strict=True):
        total = total + weight * node.value
    return total


def distance(at: float, nodes: Sequence[Node]) -> float:
    """Product of the distances from ``at`` to the nodes: how the error of a forecast through them grows."""
    return math.prod(abs(at - node.at) for node in nodes)


def slopes(nodes: Sequence[Node]) -> tuple[Tensor, Tensor]:
    """Divided differences between the last two nodes, and between the two before."""
    oldest, middle, newest = nodes[-3:]
    return (
        (newest.value - middle.value) / (newest.at - middle.at),
        (middle.value - oldest.value) / (middle.at - oldest.at),
    )


def sign_products(criterion: Criterion, nodes: Sequence[Node]) -> Tensor:
    """What ``paper`` or ``ab2`` sums up over a sample, element by element: negative is stable. Three nodes or more.

    The solver's result minus its extrapolation, times the second difference. For an Euler step of a flow the first is
    -h/6 (d0 - 4 d1) with the paper's weights (5/6, 5/6, -2/3) and h/2 d0 with those of Adams-Bashforth (3/2, -1/2),
    where d0 and d1 are the last two changes of the velocity; the second is d0 - d1. Only the sign counts, so
    changes are per unit of sigma, whose steps need not be equal.
    """
    late, early = slopes(nodes)
    lead = late if criterion == "ab2" else 4 * early - late
    return lead * (late - early)


class Track:
    """One sample on its way through the steps.

    Attributes:
        nodes: The last computed predictions, oldest first.
        judged: Those of them, and before them, that verdicts rest on.
        run: Skipped steps since the last computed one.
        degraded: Computed steps in a row, up to the last, that a method below this one has degraded.
        pending: Sums that the next verdict rests on, float32 [2], on the device; None if there are none.
        unstable: How unstable each element was at the last computed step, of a prediction's shape; larger is more.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.forget()

    def forget(self) -> None:
        """All that is known is of another latent."""
        self.nodes: list[Node] = []
        self.judged: list[Node] = []
        self.run = self.degraded = 0
        self.pending: Tensor | None = None
        self.unstable: Tensor | None = None
        self._stable = False
        self._error: float | None = None
        self._base = math.nan

    @property
    def nbytes(self) -> int:
        """Memory held."""
        held = {id(node): node.value.nbytes for node in (*self.nodes, *self.judged)}
        return sum(held.values())

    def computed(self, at: float, value: Tensor, weight: Tensor | None = None, *, degraded: bool = False) -> None:
        """A step was computed.

        Args:
            at: Where.
            value: The prediction.
            weight: 1 where an element counts, 0 where it does not (given frames); broadcasts to the value.
            degraded: Whether something was left out of it.
        """
        if not self._counts(degraded):
            return
        node, known = Node(at, value.float(), degraded), self.judged
        self.nodes = [*self.nodes, node][-self.rules.history :]
        if degraded and self.rules.marked == "apart":
            return
        self.judged = [*known, node][-self.rules.history :]
        self._stable = False
        self.pending = self.unstable = None
        if self.rules.criterion == "posterior":
            self._measure(at, known[-self.rules.terms :], weight)
        elif len(self.judged) >= 3:
            self._judge_by(sign_products(self.rules.criterion, self.judged), weight)

    def _counts(self, degraded: bool) -> bool:
        """Whether a step that was computed just now is a node."""
        self.run = 0
        self.degraded = self.degraded + 1 if degraded else 0
        return not degraded or self.rules.marked != "whole"

    def judge(self, numbers: Sequence[float]) -> None:
        """Take in ``pending``, brought to the host. NaN is unstable."""
        self.pending = None
        if self.rules.criterion == "posterior":
            error, size = numbers
            self._error = math.sqrt(error / size) if size > 0 and error >= 0 else math.nan
        else:
            self._stable = numbers[0] < 0

    def may_skip(self, at: float) -> bool:
        """Whether the prediction at ``at`` may be forecast."""
        return self.obstacle(at) is None

    def obstacle(self, at: float) -> str | None:
        """Why the prediction at ``at`` may not be forecast, in a few words; None if it may."""
        if self.run >= self.rules.max_run:
            return "so many in a row were left out as may be"
        if not self.within_reach(at):
            return "it is too far from what was computed"
        if self.rules.criterion != "posterior":
            return None if self._stable else f"unstable by the criterion {self.rules.criterion}"
        known = self._error is not None and self.predicted_error(at) < self.rules.threshold
        return None if known else "the error that is foretold is above its threshold"

    def predicted_error(self, at: float) -> float:
        """Relative error that a forecast will have, from that of the last one that could be checked."""
        return (self._error or 0.0) * distance(at, self.nodes[-self.rules.terms :]) / self._base

    def expected(self, at: float) -> float | None:
        """`predicted_error`, if there is anything to predict it from."""
        return None if self._error is None or len(self.nodes) < 2 else self.predicted_error(at)

    def within_reach(self, at: float) -> bool:
        """Whether there are nodes to extrapolate from, and near enough."""
        if len(self.nodes) < 2:
            return False
        older, newer = self.nodes[-2:]
        # Grids are in floating point: a little more than the reach is the reach.
        return (at - newer.at) / (newer.at - older.at) <= self.rules.reach * (1 + 1e-4)

    def forecast(self, at: float, *, terms: int | None = None) -> Tensor:
        """The prediction at ``at`` from the last ``terms`` nodes (default: those of the rules)."""
        return extrapolate(at, self.nodes[-(terms or self.rules.terms) :])

    def skipped(self, at: float, *, terms: int | None = None) -> Tensor:
        """A step is skipped: returns its prediction."""
        self.run += 1
        return self.forecast(at, terms=terms)

    def _measure(self, at: float, known: Sequence[Node], weight: Tensor | None) -> None:
        """How far a forecast of what was just computed would have been off."""
        if len(known) < self.rules.terms:
            return
        value = self.nodes[-1].value
        self.unstable = (extrapolate(at, known) - value).square()
        self.pending = torch.stack([_total(self.unstable, weight), _total(value.square(), weight)])
        self._base = distance(at, known)

    def _judge_by(self, product: Tensor, weight: Tensor | None) -> None:
        self.unstable = product
        total = _total(product, weight)
        self.pending = torch.stack([total, torch.zeros_like(total)])


class OfficialTrack(Track):
    """The released flow-matching rule, for reproduction: its history holds copies and predictions as if computed.

    A skipped step repeats the last output in the history and predicts 2 r2 - r3 from the second and third last entry
    of it. Stable is where the mean of the second difference is not positive (of the release's velocity, noise minus
    data, negated): no inner product, and after a skip its sign is rounding.
    """

    def forget(self) -> None:
        """See :class:`Track`."""
        super().forget()
        self._outputs: list[Tensor] = []
        self._slopes: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return super().nbytes + sum(x.nbytes for x in (*self._outputs, *self._slopes))

    def computed(self, at: float, value: Tensor, weight: Tensor | None = None, *, degraded: bool = False) -> None:
        """See :class:`Track`."""
        if not self._counts(degraded):
            return
        self.nodes = [*self.nodes, Node(at, value.float(), degraded)][-self.rules.history :]
        self._went(self.nodes[-1].value, self.nodes[-1].value, weight)

    def skipped(self, at: float, *, terms: int | None = None) -> Tensor:
        """See :class:`Track`; ``terms`` is given in the multistep regime, which extrapolates through nodes."""
        self.run += 1
        if terms is not None:
            return self.forecast(at, terms=terms)
        predicted = 2 * self._outputs[-1] - self._outputs[-2]
        self._went(self._outputs[-1], predicted, None)
        return predicted

    def judge(self, numbers: Sequence[float]) -> None:
        """See :class:`Track`."""
        self.pending = None
        self._stable = numbers[0] <= 0

    def within_reach(self, at: float) -> bool:
        """The release knows no limit."""
        return len(self._outputs) >= 2

    def _went(self, output: Tensor, slope: Tensor, weight: Tensor | None) -> None:
        self._outputs = [*self._outputs, output][-2:]
        self._slopes = [*self._slopes, slope][-3:]
        self._stable, self.pending, self.unstable = False, None, None
        if len(self._slopes) == 3:
            oldest, middle, newest = self._slopes
            # Our velocity is data minus noise, the release's the other way round.
            self._judge_by(FLOW_WEIGHTS[0] * newest + FLOW_WEIGHTS[1] * middle + FLOW_WEIGHTS[2] * oldest, weight)


def make_track(rules: Rules) -> Track:
    """The track of one sample under these rules."""
    return OfficialTrack(rules) if rules.criterion == "official" else Track(rules)


def _total(x: Tensor, weight: Tensor | None) -> Tensor:
    return (x if weight is None else x * weight).sum(dtype=torch.float32)
