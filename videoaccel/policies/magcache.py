"""MagCache: a table of how fast the residual shrinks says how long it may be served.

Source: MagCache (arXiv 2506.09045). What all blocks add loses magnitude from step to step at a rate that hardly depends
on the prompt. The product of these ratios since the last computed step says how wrong the stored residual has become;
the errors of the served steps are summed until they pass the threshold. The table is constant, so the schedule is too.
The published table holds for Open-Sora 1.2 at 480p, 51 frames, 30 steps: a threshold of 0.12 with at most 3 steps in a
row computes 12 of 30 steps, 0.24 with 5 computes 10.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from videoaccel.policies._trunk import (
    PUBLISHED_STEPS,
    Constants,
    TrunkProbe,
    TrunkSession,
    by_step,
    require_steps,
    table,
)
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Probe, Session

PUBLISHED_SQUARES = (
    0.93359, 0.96484, 0.99609, 1.0, 0.99609, 0.99609, 0.99219, 1.0, 1.0, 0.99609, 0.99219, 1.0, 0.99219, 0.99609,
    0.99219, 0.99609, 0.99609, 0.99609, 0.99219, 0.99219, 0.99219, 0.98828, 0.98828, 0.98438, 0.98438, 0.97656,
    0.97656, 0.96484, 0.96484,
)  # fmt: skip
"""Released numbers for steps 1 to 29 of 30; their square roots are the ratios."""


class MagCache(Policy):
    """Serve what all blocks added, for as long as its magnitude is known to hold."""

    knob: ClassVar[str] = "max_skips"
    sweep: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 7)
    needs: ClassVar[tuple[str, ...]] = ("magcache.ratio",)

    max_skips: int = Field(3, ge=1, description="Most steps served in a row.")
    threshold: float | None = Field(
        None,
        gt=0,
        description="Sum of errors at which to compute again; default 0.04 times `max_skips`, 0.12 as published.",
    )
    warmup: float = Field(0.2, ge=0, lt=1, description="Share of the steps, at the start, that are always computed.")
    constants: Constants = Field("calibrated", description="Whether the ratios are calibrated or the published ones.")

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe:
        """Measures the mean ratio of every token's residual to that of the step before, [B, N]."""
        require_steps(job, 2, "magcache's calibration")
        return _MagCacheProbe(job, mix=mix)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        warmup = self.warmup_steps(job.steps)
        require_steps(job, warmup + 1, f"magcache with a warm-up of {self.warmup:g}")
        ratios = published(job.steps) if self.constants == "published" else table(job, "magcache.ratio").tolist()
        return _MagCacheSession(job, mix, ratios=ratios, errand=Errand(self, job.steps))

    def warmup_steps(self, steps: int) -> int:
        """Steps, of so many, that are always computed."""
        return max(1, round(self.warmup * steps))


class Errand:
    """How long a residual may be served: the errors that its ratios sum up to since it was computed."""

    def __init__(self, policy: MagCache, steps: int) -> None:
        self.warmup, self.longest = policy.warmup_steps(steps), policy.max_skips
        self.threshold = 0.04 * policy.max_skips if policy.threshold is None else policy.threshold
        self.start_over()

    def start_over(self) -> None:
        """The residual has been computed anew."""
        self.scale, self.error, self.served = 1.0, 0.0, 0

    def serves(self, i: int, ratio: float) -> bool:
        """Whether step ``i``, whose magnitude is ``ratio`` times that of the step before, is served."""
        if i < self.warmup:
            return False
        self.scale *= ratio
        self.error += abs(1 - self.scale)
        self.served += 1
        return self.error <= self.threshold and self.served <= self.longest


def published(steps: int) -> list[float]:
    """The released ratios for another number of steps.

    A step that is twice as long shrinks the residual twice: what is interpolated is the logarithm of the magnitude
    itself. (The release takes the nearest ratio, so that twice the steps would shrink it twice as much in all.)
    """
    logs = [0.0, *accumulate(math.log(square) / 2 for square in PUBLISHED_SQUARES)]
    magnitudes = np.interp(np.linspace(0, PUBLISHED_STEPS - 1, steps), np.arange(PUBLISHED_STEPS), logs)
    return [1.0, *np.exp(np.diff(magnitudes)).tolist()]


class _MagCacheSession(TrunkSession):
    def __init__(self, job: Job, mix: Mix, *, ratios: Sequence[float], errand: Errand) -> None:
        super().__init__(job, mix=mix)
        self.ratios, self.errand = ratios, errand

    def decide(self, place: Place, seen: Seen) -> Action:
        return REUSE if self.errand.serves(self.i, self.ratios[self.i]) else COMPUTE

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        self.errand.start_over()


class _MagCacheProbe(TrunkProbe):
    def __init__(self, job: Job, *, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self._before: Tensor | None = None
        self._stats: list[Tensor] = []

    def left(self, residual: Tensor) -> None:
        norms = residual[:, :, : self.job.places].norm(dim=-1)
        if self._before is not None:
            ratios = norms / self._before.clamp(min=1e-12)
            both = torch.stack([ratios.sum((1, 2)), torch.ones_like(ratios).sum((1, 2))])
            self._stats.append(both.view(2, -1, self.job.samples).sum(1))
        self._before = norms

    def tables(self) -> dict[str, Tensor]:
        return {"magcache.ratio": by_step(self._stats, self.job)}
