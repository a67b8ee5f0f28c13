"""The control that most comparisons forget: every n-th step the network runs, between its velocity is extrapolated.

No published method: two numbers per latent element and no look inside the network. On a rectified flow, whose
trajectories are nearly straight, it is hard to beat.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from videoaccel.actions import COMPUTE, Forecast
from videoaccel.policy import Call, Job, Mix, Policy, Session, Velocities, local_mix
from videoaccel.slots import Slot


class FixedLinear(Policy):
    """Run the network every n-th step and draw a line through the last two velocities in between."""

    knob: ClassVar[str] = "period"
    sweep: ClassVar[tuple[float, ...]] = (1.5, 2, 2.5, 3, 4, 5, 6)

    period: float = Field(2.0, ge=1)
    order: int = Field(1, ge=0, le=3)
    warmup: int = Field(2, ge=1)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return _Session(self, job, mix)


class _Session(Session):
    def __init__(self, policy: FixedLinear, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        self.slots = {name: Slot(job.samples, order=policy.order) for name in job.branches}

    @property
    def cache_bytes(self) -> int:
        return sum(slot.nbytes for slot in self.slots.values())

    def disturb(self) -> None:
        for slot in self.slots.values():
            slot.invalidate()

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        self.begin(i)
        period, warmup = self.policy.period, self.policy.warmup
        # A period of 2.5 runs the network 2 steps in 5.
        due = i < warmup or int((i - warmup + 1) / period) > int((i - warmup) / period)
        known = all(slot.age(i) is not None for slot in self.slots.values())
        if due or not known:
            self.trace[-1][self.job.trunk] = COMPUTE
            out = self.network(call)
            for name, velocity in out.items():
                self.slots[name].write(i, velocity)
            return out
        self.trace[-1][self.job.trunk] = Forecast(self.policy.order)
        return {name: slot.read(i, order=self.policy.order) for name, slot in self.slots.items()}
