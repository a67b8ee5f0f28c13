"""First-block cache: the network is left after its first block if what that adds has hardly changed."""

from torch import Tensor

from videoaccel.adapters.blocks import ADDED
from videoaccel.adapters.methods import Rules
from videoaccel.adapters.rule import ASK, NOTHING_BEFORE, Ask, Due, Evaluation, RuleMaker, Serve, StepRule
from videoaccel.adapters.signals import agreed, relative
from videoaccel.adapters.streams import Stream
from videoaccel.policies.first_block import FirstBlock

WATCHES = frozenset({ADDED})

CHANGED = Due("the first block changed more than its threshold")


def rules(policy: FirstBlock) -> Rules:
    """The method's threshold and warm-up; the output is held, not what the other blocks added."""
    return RuleMaker(lambda: FirstBlockRule(policy), watches=WATCHES)


class FirstBlockRule(StepRule):
    """One segment.

    The first call of an evaluation decides for all. Another network, or another branch in its place, has nothing to be
    compared with and is computed.
    """

    keeps = least = 1
    watches = ADDED

    def __init__(self, policy: FirstBlock) -> None:
        self.policy = policy
        self._now: tuple[Stream, Tensor] | None = None
        self._before: tuple[Stream, Tensor] | None = None

    def decide(self, now: Evaluation) -> Ask | Due:
        """See :meth:`StepRule.decide`."""
        return Due("its warm-up") if now.i < self.policy.warmup else ASK

    def felt(self, now: Evaluation, stream: Stream, signal: Tensor) -> None:
        """See :meth:`StepRule.felt`."""
        self._now = stream, signal

    def judge(self, now: Evaluation) -> Serve | Due:
        """See :meth:`StepRule.judge`. NaN is too much of a change."""
        if self._now is None or self._before is None or self._now[0] != self._before[0]:
            return NOTHING_BEFORE
        changes = relative(self._now[1], self._before[1])
        serves = self.policy.threshold > 0 and all(change <= self.policy.threshold for change in changes)
        return Serve() if agreed(serves, self._now[1], self.agree) else CHANGED

    def ended(self, now: Evaluation, *, computed: bool, steps: object) -> None:
        """See :meth:`StepRule.ended`."""
        if computed:
            self._before = self._now
