"""Delta-DiT: in most steps a span of blocks is left out, and what it added to the stream is served.

Source: Delta-DiT (arXiv 2406.01125), made for images; no code was released. A diffusion transformer has no long skips:
served *features* of a span would cut the network off from the new latent, so what is stored is what the span added.
Front blocks were found to draw outlines and rear blocks details, and early steps outlines, late steps details: so
before the boundary the rear span is served, from it on the front span. Every ``interval``-th step is full. Only one
span is stored at a time; a full step stores the one that the next step needs, so that crossing the boundary
costs no further full step when one is due before it.

Published are 20 steps with a boundary at 12 (PixArt-alpha), where 1.6x at an interval of 2 implies a span of three
quarters of the blocks: the defaults. Third parties ran spans of a quarter and a half of the blocks at an interval of 2
on Open-Sora 1.2. However long the interval, it cannot be faster than 1 / (1 - share). Ours, and off by default: the
gate and the extrapolation of what the span adds.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from videoaccel.policies._trunk import quotients, require_steps, sums
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Forecast, Place, Span
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class DeltaDiT(Policy):
    """Serve what the rear blocks added in early steps, and what the front blocks added in late ones."""

    knob: ClassVar[str] = "interval"
    later: ClassVar[tuple[str, ...]] = ("last",)
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    interval: int = Field(2, ge=1, description="Steps from one full step to the next.")
    share: float = Field(
        0.75, ge=0, le=1, description="Share of the blocks in the span, rounded to whole pairs of space and time."
    )
    boundary: float = Field(
        0.6, ge=0, le=1, description="Share of the steps in which the rear span is served; then it is the front one."
    )
    warmup: int = Field(1, ge=1, description="Steps, at the start, that are always full.")
    last: bool = Field(True, description="The last step is full.")
    order: int = Field(
        0, ge=0, le=1, description="1 extrapolates what the span adds along a line through the last two full steps."
    )
    gate: float | None = Field(
        None, ge=0, description="Relative change of the stream entering the span above which it is computed."
    )

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, self.warmup + 1 + self.last, f"delta_dit with a warm-up of {self.warmup}")
        return _DeltaSession(self, job, mix)


def spans_of(job: Job, share: float) -> tuple[Span, Span]:
    """The front and the rear span of a network: whole layers, each with all its blocks."""
    layers = [site.layer for site in job.blocks]
    starts = [k for k, layer in enumerate(layers) if k == 0 or layer != layers[k - 1]] + [len(layers)]
    count = len(starts) - 1
    inside = int(share * count + 0.5)
    return Span(0, starts[inside]), Span(starts[count - inside], len(layers))


class _DeltaSession(ActionSession):
    decides_modules = False

    def __init__(self, policy: DeltaDiT, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, order=policy.order)
        self.policy = policy
        self.front, self.rear = spans_of(job, policy.share)
        self.boundary = round(policy.boundary * job.steps)
        self.last_full = -1
        self._entry: Tensor | None = None

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + (0 if self._entry is None else self._entry.nbytes)

    def disturb(self) -> None:
        super().disturb()
        self._entry = None

    def span(self, step: int) -> Span:
        """The span that a step may leave out."""
        return self.rear if step < self.boundary else self.front

    def begin(self, i: int) -> None:
        super().begin(i)
        if self.front.start == self.front.stop:
            return
        ahead = self.span(min(i + 1, self.job.steps - 1))
        self._full = self._due(i)
        self.decide_spans([ahead if self._full else self.span(i)])

    def _due(self, i: int) -> bool:
        """Whether a step is full whatever its stream is like."""
        ends = self.policy.last and i == self.job.steps - 1
        if i < self.policy.warmup or ends or i - self.last_full >= self.policy.interval:
            return True
        slot = self.slots.get(self.span(i))
        return slot is None or slot.age(i) is None

    def decide(self, place: Place, seen: Seen) -> Action:
        if self._full or not self._near(seen.x):
            self.last_full = self.i
            return COMPUTE
        return Forecast(self.policy.order) if self.policy.order else REUSE

    def _near(self, x: Tensor) -> bool:
        """Whether the stream of every sample is like that of the last full step; NaN is not."""
        if self.policy.gate is None or self._entry is None:
            return self.policy.gate is None
        changes: Sequence[float] = quotients(self.to_host(sums(x.float(), self._entry.float(), self.job)))
        return all(change <= self.policy.gate for change in changes)

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        for other in self.slots.keys() - {place}:
            del self.slots[other]
        if self.policy.gate is not None:
            self._entry = seen.x

    def keeps(self, place: Place) -> bool:
        return self.policy.interval > 1 and self.i < self.job.steps - 1 - self.policy.last
