"""What a method says about the evaluations of networks whose insides it does not see.

An *evaluation* is all calls of denoisers between two steps of the scheduler: both guidance branches, whether they come
in one call or in two, and the networks that take turns. A generation has one or more *segments*, each on a course of
its own (Helios' chunks, a second pass at a higher resolution).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from videoaccel.adapters.agreement import Agree, alone
from videoaccel.adapters.streams import Stream
from videoaccel.planning.prior import Prior
from videoaccel.policies._trunk import Residual


@dataclass(frozen=True)
class Course:
    """The evaluations of a segment, as the scheduler's timesteps foretell them.

    What is known when: the scheduler's timesteps before the first evaluation, beginning with its ``begin_index`` (0 if
    that is not set). The first ``step`` shows where the pipeline really begins (a tail of the timesteps, with a
    strength below 1); from the second evaluation on, ``certain`` is True. A pipeline that leaves timesteps out later
    gets a corrected course.

    Attributes:
        times: Timesteps of the evaluations, n of them; one may occur twice (Heun, KDPM2, PNDM).
        sigmas: Noise levels, where the scheduler has them; else None.
        places: Numbers of the evaluations among the scheduler's timesteps.
        certain: Whether the first has been seen.
        scheduler: The scheduler, for methods that know some.
    """

    times: tuple[float, ...]
    sigmas: tuple[float, ...] | None = None
    places: tuple[int, ...] = ()
    certain: bool = False
    scheduler: Any = None

    @property
    def n(self) -> int:
        """Evaluations."""
        return len(self.times)


@dataclass(frozen=True)
class Evaluation:
    """One that begins.

    Attributes:
        i: Its number in the segment, from 0.
        component: The network that is called first in it.
        nth: Its number among those of that network in the segment, from 0.
        number: Its number in the generation, from 0.
        course: Those of the segment.
    """

    i: int
    component: str
    nth: int
    number: int
    course: Course

    @property
    def n(self) -> int:
        """Evaluations of the segment."""
        return self.course.n


@dataclass(frozen=True)
class Serve:
    """An evaluation is not computed: each stream's output is a combination of computed ones.

    Attributes:
        order: Of the forecast; as many of the last outputs as there are, up to ``order + 1``, are used.
        along: Place of every evaluation of the segment on the axis of a polynomial through the outputs. None for
            finite differences over the evaluations' numbers, as this project's own pipelines take them.
        weights: In place of these, the share of each output by the number of its evaluation in the segment.
    """

    order: int = 0
    along: Sequence[float] | None = None
    weights: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Refused:
    """An evaluation is computed, against what the method is for.

    Attributes:
        reason: Why, in a few words.
    """

    reason: str


@dataclass(frozen=True)
class Due:
    """An evaluation is computed, as the method wants it.

    Attributes:
        reason: Why, in a few words.
    """

    reason: str


NOTHING_BEFORE = Due("nothing to compare with yet")


class Ask:
    """An evaluation begins with its first block; :meth:`StepRule.judge` says then whether it ends there."""


ASK = Ask()


@dataclass(frozen=True)
class Stepped:
    """A step of the scheduler.

    Attributes:
        value: What it was given for the network's output: guided, by whatever rule.
        time: The timestep that it was given.
        sample: The latent that it was given.
        result: The latent that it returned.
        position: Number of the timestep among the scheduler's; None if it is none of these.
    """

    value: Tensor
    time: Any
    sample: Tensor
    result: Tensor | None = field(default=None)
    position: int | None = None


class Space(Protocol):
    """What is extrapolated in place of a network's output."""

    def known(self, i: int, x: Tensor, output: Tensor) -> Tensor:
        """From the output at latent x, at the timestep ``i`` of the scheduler; float32."""
        ...

    def output(self, i: int, x: Tensor, known: Tensor) -> Tensor:
        """The inverse; float32."""
        ...


class RuleMaker:
    """Makes the rule of every segment, and hears where generations begin and end. This one asks a function.

    Args:
        make: Makes a rule.
        watches: Signals of networks' blocks that rules, or who measures for them, want; see
            :mod:`videoaccel.adapters.blocks`.
        residual: What is forecast; None for outputs, of a method that has no choice.
    """

    residual: Residual | None = None

    def __init__(
        self, make: "Callable[[], StepRule]", *, watches: Iterable[str] = (), residual: Residual | None = None
    ) -> None:
        self._make, self.watches, self.residual = make, frozenset(watches), residual

    def __call__(self) -> "StepRule":
        """The rule of a segment."""
        return self._make()

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A generation begins, with these arguments by name; returns those that are to be others."""
        return {}

    def sees(self, size: str) -> bool:
        """Its first call has come, with latents of this size, see :func:`.streams.size_of_latent`.

        Returns:
            Whether the rules are others by that.
        """
        return False

    def ends(self, *, seconds: float, in_networks: float, failed: bool) -> str | None:
        """It is over, and took so many seconds, so many of them in networks.

        Returns:
            What to say of it in place of ``note``, if its course was another than it began with.
        """
        return None

    @property
    def note(self) -> str | None:
        """What to say of the generation under way in its report."""
        return None

    @property
    def prior(self) -> Prior | None:
        """The measured errors that the generation under way is planned from; None if it is not."""
        return None


class StepRule:
    """The decisions of one segment. This one computes everything.

    Attributes:
        keeps: Outputs to keep of each stream; 0 for a rule that never forecasts.
        least: Computed outputs in a row that a stream needs before it is forecast.
        listens: Whether it wants the scheduler's steps.
        watches: The signal that it is told by :meth:`felt`; None for none.
        agree: Makes numbers that a decision rests on the same on all ranks; set before the first evaluation.
    """

    agree: Agree = alone
    keeps: int = 0
    least: int = 2
    listens: bool = False
    watches: str | None = None

    def decide(self, now: Evaluation) -> Serve | Refused | Ask | Due | None:
        """How to serve an evaluation, or why it is computed. Asked once, when it begins.

        Returns:
            None from a rule that never forecasts; any other says why it computes.
        """
        return None

    def felt(self, now: Evaluation, stream: Stream, signal: Tensor) -> None:
        """Told what a block does in the first call of an evaluation that is not served from the beginning, [G, P]."""

    def judge(self, now: Evaluation) -> Serve | Due:
        """How to serve an evaluation of which :meth:`decide` said ``Ask``, after :meth:`felt`, or why not."""
        return Due("it does not judge")

    def ended(self, now: Evaluation, *, computed: bool, steps: Sequence[Stepped]) -> None:
        """An evaluation is over.

        Args:
            now: Which.
            computed: Whether all of its calls were computed.
            steps: The steps after it, if the rule listens.
        """

    def space(self, course: Course) -> Space | None:
        """In what to extrapolate; None for the outputs themselves."""
        return None


class Computed(StepRule):
    """Computes everything, against what the method is for.

    Args:
        reason: Why, in a few words.
    """

    keeps = 1

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def decide(self, now: Evaluation) -> Refused:
        """See :meth:`StepRule.decide`."""
        return Refused(self._reason)
