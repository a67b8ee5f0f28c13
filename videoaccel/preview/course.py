"""The course of a pipeline's generation: it is run until that is known, which is in its second evaluation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from videoaccel.adapters.attach import attach
from videoaccel.adapters.call_setting import setting_of_call, with_latents
from videoaccel.adapters.refusals import FEWEST, forbidden
from videoaccel.adapters.rule import Course, Evaluation, Refused, RuleMaker, Serve, Stepped, StepRule
from videoaccel.adapters.streams import Stream
from videoaccel.common.wording import counted


class _SeenError(BaseException):
    """Ends a generation whose course is known; not an ``Exception``, so that no pipeline takes it for a fault."""


class Peek(RuleMaker):
    """Computes until the course is certain, which is in the second evaluation.

    Attributes:
        setting: See :func:`videoaccel.adapters.call_setting.setting_of_call`.
        arguments: Of the call.
        course: Once it is certain.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__(lambda: _PeekRule(self))
        self._pipe = pipe
        self.setting: Mapping[str, Any] = {}
        self.arguments: Mapping[str, Any] = {}
        self.course: Course | None = None

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`RuleMaker.begins`."""
        self.arguments, self.setting = arguments, setting_of_call(self._pipe, arguments)
        return {}

    def sees(self, size: str) -> bool:
        """See :meth:`RuleMaker.sees`."""
        self.setting = with_latents(self.setting, size)
        return False


class _Watch:
    """An observer that knows the course so far, and ends a generation in which nothing may be forecast."""

    def __init__(self) -> None:
        self.evaluations = 0
        self.reason: str | None = None

    def began(self) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""

    def called(self, now: Evaluation, stream: Stream, x: Tensor | None, output: Any, *, computed: bool) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""
        self.evaluations, self.reason = now.n, forbidden(now, apart=False)
        if self.reason is not None and (now.course.certain or now.n < FEWEST):
            raise _SeenError

    def felt(self, now: Evaluation, stream: Stream, signals: Mapping[str, Tensor], output: Any) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""

    def stepped(self, now: Evaluation | None, step: Stepped) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""

    def ended(self, *, failed: bool) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""


class _PeekRule(StepRule):
    keeps = 1  # a rule that keeps nothing is not asked

    def __init__(self, peek: Peek) -> None:
        self._peek = peek

    def decide(self, now: Evaluation) -> Serve | Refused | None:
        if now.course.certain:
            self._peek.course = now.course
            raise _SeenError
        return None


def course_of(pipe: Any, call: Mapping[str, Any]) -> Peek:
    """Run a pipeline until its course is known.

    Raises:
        ValueError: Nothing is forecast in such a generation, with the reason.
    """
    peek, watch = Peek(pipe), _Watch()
    with attach(pipe, peek, method="off", observers=[watch]):
        try:
            pipe(**call)
        except _SeenError:
            pass
        finally:
            if hasattr(pipe, "maybe_free_model_hooks"):  # which it would have done at its end
                pipe.maybe_free_model_hooks()
    if peek.course is None or peek.course.n < FEWEST:
        if watch.reason is not None and watch.evaluations >= FEWEST:
            raise ValueError(f"there is nothing to plan, everything is computed: {watch.reason}")
        told = counted(watch.evaluations, "evaluation")
        raise ValueError(f"there is nothing to plan: a generation of {told}; forecasts need {FEWEST}")
    return peek
