"""The control that most comparisons forget: every n-th step the network runs, between its velocity is extrapolated.

No published method: two numbers per latent element and no look inside the network. On a rectified flow, whose
trajectories are nearly straight, it is hard to beat.
"""

from typing import ClassVar, Literal

from pydantic import Field

from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Forecast, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class FixedLinear(Policy):
    """Run the network every n-th step and draw a line through the last two velocities in between."""

    knob: ClassVar[str] = "period"
    sweep: ClassVar[tuple[float, ...]] = (1.5, 2, 2.5, 3, 4, 5, 6)

    later: ClassVar[tuple[str, ...]] = ("start", "last")

    period: float = Field(2.0, ge=1)
    order: int = Field(1, ge=0, le=3)
    warmup: int = Field(2, ge=1)
    start: float = Field(0.0, ge=0, lt=1, description="Share of the steps that the warm-up takes, if that is longer.")
    last: bool = Field(False, description="Whether the last step is always computed.")

    def due(self, i: int, steps: int) -> bool:
        """Whether step ``i`` of so many is computed. A period of 2.5 runs the network in 2 steps of 5."""
        since = i - max(self.warmup, round(self.start * steps))
        return since < 0 or int((since + 1) / self.period) > int(since / self.period) or (self.last and i == steps - 1)

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "steps"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return _FixedLinearSession(self, job, mix)


class _FixedLinearSession(ActionSession):
    decides_network, decides_modules = True, False

    def __init__(self, policy: FixedLinear, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, order=policy.order)
        self.policy = policy

    def decide(self, place: Place, seen: Seen) -> Action:
        due = self.policy.due(self.i, self.job.steps)
        return COMPUTE if due else Forecast(self.policy.order)
