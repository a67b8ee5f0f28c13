"""The other control: the same sampler with fewer steps."""

from typing import ClassVar

from pydantic import Field

from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class FewerSteps(Policy):
    """Run a share of the steps that were asked for, on the same schedule."""

    knob: ClassVar[str] = "share"
    sweep: ClassVar[tuple[float, ...]] = (0.8, 0.66, 0.5, 0.4, 0.33, 0.25, 0.2)

    share: float = Field(0.5, gt=0, le=1)

    def steps(self, steps: int) -> int:
        """At least one."""
        return max(1, round(self.share * steps))

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return Session(job, mix=mix)
