"""First-block cache: the first block always runs, and its own change decides about all others.

Source: ParaAttention's first-block cache, as it is known from diffusers; no paper of its own. What the first block adds
is compared with what it added at the last computed step; while the relative change stays within the threshold, what the
other blocks added then is served. Usual thresholds are 0.05 to 0.2 (FLUX, Hunyuan); nothing was published for Open-
Sora, and the threshold needs no calibration.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import Site, Work
from videoaccel.policies._trunk import quotients, require_steps, sums
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place, Span
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class FirstBlock(Policy):
    """Run the first block, and the others only if what it adds has changed."""

    knob: ClassVar[str] = "threshold"
    sweep: ClassVar[tuple[float, ...]] = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3)

    threshold: float = Field(
        0.08,
        ge=0,
        description="Relative change since the last computed step up to which others are served; 0 never.",
    )
    warmup: int = Field(1, ge=1, description="Steps, at the start, that are always computed.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, self.warmup + 1, f"first_block with a warm-up of {self.warmup}")
        if len(job.blocks) < 2:
            raise ValueError(f"first_block needs at least 2 blocks, the network has {len(job.blocks)}")
        return _FirstBlockSession(self, job, mix)


class _FirstBlockSession(ActionSession):
    decides_modules = False

    def __init__(self, policy: FirstBlock, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, spans=[Span(1, len(job.blocks))])
        self.policy = policy
        self._first = next(iter(job.blocks))
        self._now: Tensor | None = None
        self._before: Tensor | None = None

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + (0 if self._before is None else self._before.nbytes)

    def disturb(self) -> None:
        super().disturb()
        self._before = None

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        out = super().run(site, branch, x, cond)
        if site == self._first:
            self._now = out.float() - x.float()
        return out

    def decide(self, place: Place, seen: Seen) -> Action:
        assert self._now is not None
        if self._before is None or self.i < self.policy.warmup:
            return COMPUTE
        changes = quotients(self.to_host(sums(self._now, self._before, self.job)))
        return REUSE if self.holds(changes) else COMPUTE

    def holds(self, changes: Sequence[float]) -> bool:
        """Whether no sample has changed too much; NaN is too much."""
        return self.policy.threshold > 0 and all(change <= self.policy.threshold for change in changes)

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        self._before = self._now
