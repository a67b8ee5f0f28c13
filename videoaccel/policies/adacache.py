"""AdaCache: the less one block's attention has changed, the more steps are served before the next is computed.

Source: Adaptive Caching for Faster Video Generation (arXiv 2411.02397). At every computed step the temporal self-
attention of one block in the middle (layer 13 of 28) is compared with that of the computed step before; a codebook
turns the change per step into the number of steps until the next. First and the last two steps are always computed. The
published codebooks hold for Open-Sora 1.2 at 480p, 51 frames, 30 steps: ``fastest`` 6 is the published fast one (0.41
of the dense FLOPs), 3 the slow one (0.68).

The release stores two residuals for every block. They are added up unchanged, so their sum over all blocks is stored
here: the same clip up to rounding, with one tensor instead of 112.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import Branch, Site
from videoaccel.policies._trunk import (
    PUBLISHED_STEPS,
    Constants,
    TrunkSession,
    by_step,
    quotients,
    require_steps,
    sums,
    table,
)
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Probe, Session

THRESHOLDS = (0.08, 0.16, 0.24, 0.32, 0.40)
"""Changes per step at which the interval gets one step shorter."""

PUBLISHED_SHARES = {6: 1331.97 / 3230.24, 3: 2195.50 / 3230.24}
"""By ``fastest``: FLOPs of the fast and the slow codebook over those of a dense run, the share of steps computed."""

FITTED_ENDS = 32
"""Most places at which an end of the thresholds is tried."""

PROBE_LAYER = 13 / 28
"""Depth of the block whose temporal self-attention is watched."""

MOTION_SCALE, MOTION_POWER, MOTION_SLOPE = 1 / 0.385, 8, 10.0
"""Motion regularisation: ``(scale * motion) ** power``, and how much the motion's own change counts."""

MOTION_FROM, MOTION_TO = 4 / 30, 26 / 30
"""First and last step, as shares, at which motion counts."""


class AdaCache(Policy):
    """Serve what all blocks added for a number of steps that follows from how much one block changes."""

    knob: ClassVar[str] = "fastest"
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)
    needs: ClassVar[tuple[str, ...]] = ("adacache.distance",)

    fastest: int = Field(
        6, ge=1, description="Longest interval between computed steps, at 30 steps; each threshold shortens it by one."
    )
    motion: bool = Field(False, description="Compute more often where consecutive latent frames differ much.")
    constants: Constants = Field(
        "calibrated",
        description="Whether the codebook's thresholds are fitted to this model's changes or the published ones.",
    )

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe:
        """Measures how much the watched attention changes from step to step, [B, N]."""
        require_steps(job, 2, "adacache's calibration")
        return _AdaCacheProbe(job, mix=mix)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, 5, "adacache")
        if self.constants == "calibrated":
            thresholds = fitted_thresholds(table(job, "adacache.distance").tolist())
        else:
            # Half the steps: every step changes twice as much, and half as many steps are the same stretch of time.
            thresholds = [threshold * PUBLISHED_STEPS / job.steps for threshold in THRESHOLDS]
        return _AdaCacheSession(job, mix, thresholds, intervals(self.fastest, job.steps), motion=self.motion)


def intervals(fastest: int, steps: int) -> list[int]:
    """Steps from one computed step to the next, for changes between each two thresholds."""
    return [max(1, round(max(1, fastest - k) * steps / PUBLISHED_STEPS)) for k in range(len(THRESHOLDS) + 1)]


def interval(distance: float, thresholds: Sequence[float], lengths: Sequence[int]) -> int:
    """The codebook. NaN gives the shortest interval."""
    return lengths[sum(not distance < threshold for threshold in thresholds)]


def computed_steps(distances: Sequence[float], thresholds: Sequence[float], lengths: Sequence[int]) -> int:
    """How many steps the codebook computes if the changes per step are those of a dense run."""
    steps = len(distances)
    due, count = 0, 0
    for i, distance in enumerate(distances):
        if i >= due or i >= steps - 2:
            count += 1
            due = i + (interval(distance, thresholds, lengths) if i else 1)
    return count


def fitted_thresholds(distances: Sequence[float]) -> list[float]:
    """Thresholds that do to this model what the published ones did to Open-Sora.

    How much the watched attention changes is a matter of the model, the size and the number of steps, and how much it
    changed in Open-Sora was not published; but the shares of steps that the two codebooks compute were. So the
    thresholds stay evenly spaced, as published, and their ends are put where both codebooks, played on a dense run's
    changes, come closest to these shares; among equals the most careful ones are taken.
    """
    # Schedules change only where a threshold passes a distance; of many distances every n-th will do.
    passing = sorted({1.001 * distance for distance in distances[1:]})
    passing = passing[:: -(-len(passing) // FITTED_ENDS)]
    pairs = [(low, high) for k, low in enumerate(passing) for high in passing[k:]]
    return min(
        (_spaced(low, high) for low, high in pairs), key=lambda thresholds: (_miss(distances, thresholds), thresholds)
    )


def _spaced(low: float, high: float) -> list[float]:
    last = len(THRESHOLDS) - 1
    return [low + (high - low) * k / last for k in range(last + 1)]


def _miss(distances: Sequence[float], thresholds: Sequence[float]) -> float:
    """By how many steps the published codebooks miss their published shares, both together."""
    steps = len(distances)
    counts = {fastest: computed_steps(distances, thresholds, intervals(fastest, steps)) for fastest in PUBLISHED_SHARES}
    return sum(abs(counts[fastest] - share * steps) for fastest, share in PUBLISHED_SHARES.items())


def watched_site(job: Job) -> Site:
    """The temporal self-attention that is watched; any self-attention in a network without temporal blocks."""
    sites = [site for modules in job.blocks.values() for site in modules if site.kind == "attn"]
    sites = [site for site in sites if site.axis == "time"] or sites
    return sites[min(round(PROBE_LAYER * len(sites)), len(sites) - 1)]


class _Watch:
    """Compares what a module adds, its gate included, with what it added when it ran last."""

    def __init__(self, job: Job, mix: Mix, *, motion: bool) -> None:
        self.job, self.inner, self.motion = job, mix, motion
        self.site = watched_site(job)
        self.before: Tensor | None = None
        self.stats: Tensor | None = None

    def mix(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        """See :class:`videoaccel.session.job.Mix`."""
        delta = self.inner(site, branch, h, cond, **options)
        if site == self.site:
            now = branch.add(torch.zeros_like(delta), delta, cond)
            if self.before is not None:
                self.stats = sums(now, self.before, self.job)
                if self.motion:
                    self.stats = torch.cat([self.stats, _motion(now, self.job)])
            self.before = now
        return delta

    def forget(self) -> None:
        """What was seen belongs to another latent."""
        self.before = self.stats = None


def _motion(x: Tensor, job: Job) -> Tensor:
    """Sums of differences of consecutive frames and of their magnitudes, [2, B]."""
    apart, later = sums(x[:, 1:], x[:, :-1], job)
    earlier = sums(x[:, :-1], x[:, 1:], job)[1]
    return torch.stack([apart, later + earlier])


class _AdaCacheSession(TrunkSession):
    def __init__(
        self, job: Job, mix: Mix, thresholds: Sequence[float], lengths: Sequence[int], *, motion: bool
    ) -> None:
        self.watch = _Watch(job, mix, motion=motion and job.latent_shape[1] > 1)
        super().__init__(job, mix=self.watch.mix)
        self.thresholds, self.lengths = thresholds, lengths
        self.last, self.gap, self.interval = -1, 1, 1
        self._moved: list[float] = []

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + (0 if self.watch.before is None else self.watch.before.nbytes)

    def disturb(self) -> None:
        super().disturb()
        self.watch.forget()

    def decide(self, place: Place, seen: Seen) -> Action:
        if self.i == 0 or self.i >= self.job.steps - 2:
            return COMPUTE
        if self.watch.stats is not None:
            # Read at the step after the measurement: the device need not be waited for in the middle of a step.
            numbers = self.to_host(self.watch.stats)
            self.interval = min(interval(d, self.thresholds, self.lengths) for d in self.distances(numbers))
            self.watch.stats = None
        return REUSE if self.i < self.last + self.interval else COMPUTE

    def distances(self, numbers: Sequence[float]) -> list[float]:
        """Changes per step of every sample from the sums measured at the last computed step."""
        count = 2 * self.job.samples
        found = [change / self.gap for change in quotients(numbers[:count])]
        counts = round(MOTION_FROM * self.job.steps) <= self.last <= round(MOTION_TO * self.job.steps)
        if not (self.watch.motion and counts):
            return found
        moved = [(MOTION_SCALE * motion) ** MOTION_POWER for motion in quotients(numbers[count:])]
        before, self._moved = self._moved or moved, moved
        slopes = [abs(MOTION_SLOPE * (now - old) / self.gap) for now, old in zip(moved, before, strict=True)]
        return [change * (now + slope) for change, now, slope in zip(found, moved, slopes, strict=True)]

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        self.gap, self.last, self.interval = self.i - self.last, self.i, 1


class _AdaCacheProbe(Probe):
    def __init__(self, job: Job, *, mix: Mix) -> None:
        self._watch = _Watch(job, mix, motion=False)
        super().__init__(job, mix=self._watch.mix)
        self._stats: list[Tensor] = []

    def begin(self, i: int) -> None:
        super().begin(i)
        self._take()

    def _take(self) -> None:
        if self._watch.stats is not None:
            self._stats.append(self._watch.stats)
            self._watch.stats = None

    def tables(self) -> dict[str, Tensor]:
        self._take()
        return {"adacache.distance": by_step(self._stats, self.job)}
