"""TeaCache: the network is left after its first block until the change that its input foretells has summed up.

What the polynomial foretells is the change of the network's output, which is what is held here.
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from videoaccel.adapters.blocks import MODULATED
from videoaccel.adapters.methods import RuleFrom
from videoaccel.adapters.rule import ASK, NOTHING_BEFORE, Ask, Due, Evaluation, Serve, StepRule
from videoaccel.adapters.signals import agreed, relative
from videoaccel.adapters.streams import Stream
from videoaccel.policies.teacache import TeaCache, fit

WATCHES = frozenset({MODULATED})
TABLES = TeaCache.needs

CHANGED = Due("the change that was foretold reached its threshold")


def rule_from(policy: TeaCache) -> RuleFrom:
    """The method's threshold, and a polynomial of its degree fitted to measured changes.

    Raises:
        ValueError: Published constants are asked for.
    """
    if policy.constants == "published":
        raise ValueError("teacache's published constants are Open-Sora's; here they are calibrated")

    def make(tables: Mapping[str, Tensor]) -> StepRule:
        probe, output = (tables[name].double() for name in TABLES)
        known = probe.isfinite() & output.isfinite()
        known[0] = False  # repeats the second
        if int(known.sum()) <= policy.degree:
            raise ValueError(
                f"teacache cannot fit a polynomial of degree {policy.degree} to {int(known.sum())} changes"
            )
        return TeaCacheRule(policy.threshold, fit(probe[known].numpy(), output[known].numpy(), policy.degree))

    return make


class TeaCacheRule(StepRule):
    """One segment. First and last evaluation are computed."""

    keeps = least = 1
    watches = MODULATED

    def __init__(self, threshold: float, expected: Callable[[float], float]) -> None:
        self.threshold, self.expected = threshold, expected
        self.total: list[float] = []
        self._before: tuple[Stream, Tensor] | None = None
        self._now: tuple[Stream, Tensor] | None = None

    def decide(self, now: Evaluation) -> Ask | Due:
        """See :meth:`StepRule.decide`."""
        return Due("the first and the last") if now.i in (0, now.n - 1) else ASK

    def felt(self, now: Evaluation, stream: Stream, signal: Tensor) -> None:
        """See :meth:`StepRule.felt`."""
        self._before, self._now = self._now, (stream, signal)

    def judge(self, now: Evaluation) -> Serve | Due:
        """See :meth:`StepRule.judge`. A number that is none is change enough."""
        if self._now is None or self._before is None or self._now[0] != self._before[0]:
            return NOTHING_BEFORE
        changes = relative(self._now[1], self._before[1])
        expected = [self.expected(change) if math.isfinite(change) else math.inf for change in changes]
        before = self.total if len(self.total) == len(expected) else [0.0] * len(expected)
        self.total = [total + more for total, more in zip(before, expected, strict=True)]
        serves = all(total < self.threshold for total in self.total)
        return Serve() if agreed(serves, self._now[1], self.agree) else CHANGED

    def ended(self, now: Evaluation, *, computed: bool, steps: object) -> None:
        """See :meth:`StepRule.ended`."""
        if computed:
            self.total = []
