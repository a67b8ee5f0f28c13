"""Rules that go by the number of an evaluation alone."""

from collections.abc import Callable

from videoaccel.adapters.rule import Due, Evaluation, Serve, StepRule

PERIOD = Due("its period and warm-up")


class Periodic(StepRule):
    """Some evaluations are computed, the others are forecast by finite differences.

    Args:
        due: Whether the i-th evaluation of n is computed.
        order: Of the forecast.
    """

    def __init__(self, due: Callable[[int, int], bool], *, order: int) -> None:
        self._due, self._order = due, order
        self.keeps = order + 1

    def decide(self, now: Evaluation) -> Serve | Due:
        """See :meth:`StepRule.decide`."""
        return PERIOD if self._due(now.i, now.n) else Serve(self._order)
