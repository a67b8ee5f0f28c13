"""PreciseCache: a trial on a smaller latent says whether the low frequencies of the prediction have moved on.

Source: PreciseCache (arXiv 2603.00976). *LFCache*: in every step the network runs on the latent at half the frames and
a quarter of the rows and columns; the change of its prediction from step to step is measured at low frequencies, within
a circle of a fifth of the smaller side, and summed since the network last ran whole. Below ``factor`` times the largest
such change the whole prediction is served. *BlockCache*: after a whole call the blocks that change the stream most are
pivotal, and in the next three calls the others add what they added then. Published: ``factor`` 0.5 ("base"), 0.7
("turbo"), and with 40 % of the blocks pivotal ("flash"): 1.59, 2.15 and 2.63 times as fast on Wan 2.1 14B. Open-Sora
1.2 was measured, too, but we have not seen those numbers.

Ours, where what we read leaves it open: the largest change is the largest so far; the smaller latent takes every second
frame and every fourth row and column, which keeps the noise what it is where a mean would lower it (where the network
takes no such size, less is left out); changes are each sample's own over its guidance branches, a batch is computed
where one sample is due, and blocks are chosen for all rows of a batch.

Trials are computed whole on every rank. In FLOPs they count by their tokens, which is a little too much.

Shape legend: B samples, Z latent channels, T latent frames, h, w latent sizes, K blocks.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import BODY, Site
from videoaccel.policies._trunk import require_steps
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Call, Job, Mix, Smaller, Velocities, local_mix
from videoaccel.session.policy import Policy, Session

STRIDES = ((2, 4, 4), (1, 4, 4), (2, 2, 2), (1, 2, 2))
"""Of frames, rows and columns: the published ones, and what stands in where the network takes no such size."""

RADIUS = 1 / 5
"""Of the circle of low frequencies, in sides of the smaller latent."""


class PreciseCache(Policy):
    """Serve the prediction, until a trial on a smaller latent says that its low frequencies have changed enough."""

    knob: ClassVar[str] = "factor"
    sweep: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5)

    factor: float = Field(
        0.5, ge=0, description="Sum of low-frequency changes at which the network runs, over the largest of them."
    )
    pivotal: float = Field(
        1.0, gt=0, le=1, description="Share of the blocks that run in the calls after a whole one; 1 runs all."
    )
    calls: int = Field(3, ge=1, description="Calls in which only these run, before the next whole one.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`.

        Raises:
            ValueError: There is one step only, or the network does not run on smaller latents.
        """
        require_steps(job, 2, "precisecache")
        if job.smaller is None:
            raise ValueError("precisecache needs a network that runs on smaller latents, which cannot be had here")
        return _PreciseCacheSession(self, job, mix, job.smaller)


class _PreciseCacheSession(ActionSession):
    """One generation.

    Attributes:
        total: Changes since the network ran, of each sample.
        largest: The largest change so far, likewise.
        others: Blocks that are served in this call; none in a whole one.
    """

    decides_modules = False

    def __init__(self, policy: PreciseCache, job: Job, mix: Mix, smaller: Smaller) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        self.decides_blocks = policy.pivotal < 1
        self.strides, self._share = strides_for(smaller, job.latent_shape[1:])
        self.total, self.largest = [0.0] * job.samples, [0.0] * job.samples
        self.others: frozenset[Place] = frozenset()
        self._left = 0
        self._said: Velocities | None = None
        self._low: Tensor | None = None
        self._sizes: dict[Place, Tensor] = {}
        self._order: list[Place] = []

    @property
    def cache_bytes(self) -> int:
        said = [] if self._said is None else list(self._said.values())
        low = [] if self._low is None else [self._low]
        return super().cache_bytes + sum(x.nbytes for x in (*said, *low))

    def disturb(self) -> None:
        super().disturb()
        self._said = self._low = None
        self.others, self._left = frozenset(), 0

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Run the trial; then run the network, or say what it said last."""
        self.begin(i)
        if not self._due(i, x):
            assert self._said is not None
            self.trace[-1][BODY] = REUSE
            return self._said
        self.trace[-1][BODY] = COMPUTE
        self.total = [0.0] * self.job.samples
        self._choose()
        self._said = self.network(call)
        self.peak_bytes = max(self.peak_bytes, self.cache_bytes)
        return self._said

    # Steps ---------------------------------------------------------------------------------------------------------

    def _due(self, i: int, x: Tensor) -> bool:
        """Whether the network runs in step ``i``; the sizes of what blocks added are read on the way."""
        assert self.job.smaller is not None
        time, row, column = self.strides
        small = self.job.smaller.call(i, x[:, :, ::time, ::row, ::column])
        self.shares[-1] += self._share
        before, self._low = self._low, torch.stack([low_frequencies(out) for out in small.values()])
        if before is None or self._said is None:
            return True
        # Squares, which ranks with other branches can add.
        stats = [(self._low - before).abs().square().sum((0, 2, 3, 4, 5)), *self._sizes.values()]
        numbers = self.to_host(torch.cat([part.reshape(-1) for part in stats]))
        self._take(numbers[self.job.samples :])
        return self.due([math.sqrt(number) if number >= 0 else math.nan for number in numbers[: self.job.samples]])

    def due(self, changes: Sequence[float]) -> bool:
        """Whether one sample has changed enough; a number that is none is enough."""
        found = [change if math.isfinite(change) else math.inf for change in changes]
        self.total = [total + change for total, change in zip(self.total, found, strict=True)]
        known = [0.0 if math.isinf(change) else change for change in found]
        self.largest = [max(most, change) for most, change in zip(self.largest, known, strict=True)]
        limits = [self.policy.factor * most for most in self.largest]
        return not all(total < limit for total, limit in zip(self.total, limits, strict=True))

    # Blocks --------------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Which blocks are served in the call to come."""
        if self._left and self._order:
            kept = max(1, round(self.policy.pivotal * len(self._order)))
            self._left, self.others = self._left - 1, frozenset(self._order[kept:])
        else:
            self._left, self.others, self._order = self.policy.calls, frozenset(), []

    def _take(self, numbers: Sequence[float]) -> None:
        """Order the blocks by how much they added in the whole call, most first; of equals the first one."""
        if self._sizes:
            by_size = sorted(zip(self._sizes, numbers, strict=True), key=lambda pair: -pair[1])
            self._order, self._sizes = [place for place, _ in by_size], {}

    def decide(self, place: Place, seen: Seen) -> Action:
        return REUSE if place in self.others else COMPUTE

    def keeps(self, place: Place) -> bool:
        """Of a whole call everything is kept; of the others nothing."""
        return not self.others

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        if not self.others and isinstance(place, Site):
            self._sizes[place] = delta[:, :, : self.job.places].float().square().sum()


def strides_for(smaller: Smaller, size: Sequence[int]) -> tuple[tuple[int, int, int], float]:
    """Strides of a latent of T, h, w that leave one that the network takes, and its share of the tokens.

    Raises:
        ValueError: There are none.
    """
    for strides in STRIDES:
        share = smaller.share([-(-length // stride) for length, stride in zip(size, strides, strict=True)])
        if share is not None and share < 1:
            return strides, share
    rows, columns = size[1:]
    raise ValueError(f"precisecache finds no smaller latent than {rows} x {columns} that the network takes")


def low_frequencies(x: Tensor) -> Tensor:
    """Rows and columns of a prediction as frequencies, none but low ones; complex, scaled to keep the norm.

    Args:
        x: [B, Z, T, h, w].
    """
    height, width = x.shape[-2:]
    vertical = torch.fft.fftfreq(height, 1 / height, device=x.device)
    horizontal = torch.fft.fftfreq(width, 1 / width, device=x.device)
    inside = vertical[:, None] ** 2 + horizontal[None] ** 2 <= (RADIUS * min(height, width)) ** 2
    return torch.fft.fft2(x.float(), norm="ortho") * inside
