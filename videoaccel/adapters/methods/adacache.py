"""AdaCache: how much one block changes between computed evaluations says how many are held until the next.

The block is that in the middle of the longest part of the network, and what it adds is compared: which of its modules
is the temporal attention cannot be told. Evaluations in between do not call the network at all.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videoaccel.adapters.blocks import MIDDLE
from videoaccel.adapters.methods import RuleFrom
from videoaccel.adapters.rule import Due, Evaluation, Serve, StepRule
from videoaccel.adapters.signals import agreed, change
from videoaccel.adapters.streams import Stream
from videoaccel.policies._trunk import quotients
from videoaccel.policies.adacache import AdaCache, fitted_thresholds, interval, intervals

WATCHES = frozenset({MIDDLE})
TABLES = AdaCache.needs

CHANGED = Due("its block changed too much to hold longer")


def rule_from(policy: AdaCache) -> RuleFrom:
    """The method's codebook, its thresholds fitted to measured changes.

    Raises:
        ValueError: Published constants are asked for, or motion, which takes a look at frames.
    """
    if policy.constants == "published":
        raise ValueError("adacache's published constants are Open-Sora's; here they are calibrated")
    if policy.motion:
        raise ValueError("adacache with `motion` has to know which tokens are frames; leave it out")

    def make(tables: Mapping[str, Tensor]) -> StepRule:
        distances = _whole(tables[TABLES[0]].tolist())
        return AdaCacheRule(policy.fastest, fitted_thresholds(distances), measured=len(distances))

    return make


class AdaCacheRule(StepRule):
    """One segment. The first and the last two evaluations are computed.

    Args:
        fastest: Longest interval, at 30 evaluations.
        thresholds: Changes per evaluation at which intervals get shorter.
        measured: Evaluations in which the thresholds were fitted: of half as many, each changes twice as much.
    """

    keeps = least = 1
    watches = MIDDLE

    def __init__(self, fastest: int, thresholds: Sequence[float], *, measured: int) -> None:
        self.fastest, self.thresholds, self.measured = fastest, thresholds, measured
        self.last, self.gap, self.interval = -1, 1, 1
        self._before: tuple[Stream, Tensor] | None = None
        self._sums: Tensor | None = None

    def decide(self, now: Evaluation) -> Serve | Due:
        """See :meth:`StepRule.decide`."""
        if now.i == 0 or now.i >= now.n - 2:
            return Due("the first and the last two")
        if self._sums is not None:
            apart = self.gap * self.measured / now.n
            changes = [one / apart for one in quotients(self._sums.flatten().tolist())]
            lengths = intervals(self.fastest, now.n)
            own = min(interval(one, self.thresholds, lengths) for one in changes)
            self.interval = int(agreed(own, self._sums, self.agree))
            self._sums = None
        return Serve() if now.i < self.last + self.interval else CHANGED

    def felt(self, now: Evaluation, stream: Stream, signal: Tensor) -> None:
        """See :meth:`StepRule.felt`."""
        before, self._before = self._before, (stream, signal)
        self._sums = change(signal, before[1]) if before is not None and before[0] == stream else None

    def ended(self, now: Evaluation, *, computed: bool, steps: object) -> None:
        """See :meth:`StepRule.ended`."""
        if computed:
            self.gap, self.last, self.interval = now.i - self.last, now.i, 1


def _whole(distances: Sequence[float]) -> list[float]:
    """Without gaps, which come from one network to the next: the change before is repeated.

    Raises:
        ValueError: There is none at all.
    """
    known = [k for k, one in enumerate(torch.tensor(distances).isfinite().tolist()) if one]
    if not known:
        raise ValueError("no change of a block was measured")
    return [distances[max((k for k in known if k <= i), default=known[0])] for i in range(len(distances))]
