"""BWCache: once the blocks say nearly the same in two steps, most of the steps that follow serve what they said.

Source: BWCache (arXiv 2509.13789). After a computed step the output of every block is compared with that of the step
before; the mean over blocks of the relative changes falls, stays low and rises again over a run. Where it first falls
below the threshold, a schedule begins: what the blocks added is served for an interval of steps, then one is computed,
and so on. The last steps are always computed. Published: a threshold of 0.15 (0.2 and 0.25 for more speed), an
interval of 10 % of the steps; on Open-Sora 1.2 (480p, 51 frames, 30 steps) 41.38 % (53.05 %, 59.00 %) of the steps are
served, 1.61 times as fast with 0.15.

The paper says of the end that after a beginning at the k-th step the last k/2 are computed, and in another place that
nothing is served in the second half of what remains. Of 30 steps at most 37 % could then be served, less than were
published: so k counts from the first step here.

Ours: the paper speaks of serving the blocks' outputs; here it is what they added, on the present stream, whose sum over
all blocks is stored once. A batch begins when all of its samples are below the threshold.

Shape legend: B samples, K blocks, R generation rows, T frames, S places, C channels.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import Site, Work
from videoaccel.policies._trunk import TrunkSession, quotients, require_steps, sums
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Compute, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session
from videoaccel.session.stretches import Stretches


class BWCache(Policy):
    """Serve what all blocks added in most steps, from where every block's output has nearly ceased to change."""

    knob: ClassVar[str] = "threshold"
    sweep: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5)

    threshold: float = Field(
        0.15, ge=0, description="Mean relative change of the blocks' outputs below which steps begin to be served."
    )
    interval: float = Field(0.1, gt=0, lt=1, description="Share of the steps that is served before one is computed.")
    tail: float = Field(
        0.5, ge=0, le=1, description="Steps at the end that are computed, as a share of those before serving begins."
    )

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`.

        Raises:
            ValueError: There are so few steps that none could be served.
        """
        require_steps(job, 4, "bwcache")
        return _BWCacheSession(self, job, mix)


def served_steps(begins: int, steps: int, *, interval: float, tail: float) -> frozenset[int]:
    """Numbers of the steps that are served, from 0.

    Args:
        begins: k, how many steps were computed when the blocks were first alike.
        steps: Of the generation.
        interval: Share of them that is served before one is computed.
        tail: Share of k that is computed at the end, one step at least.

    >>> sorted(served_steps(4, 16, interval=0.2, tail=0.5))
    [4, 5, 6, 8, 9, 10, 12, 13]
    """
    run = max(1, round(interval * steps))
    stop = steps - max(1, math.floor(tail * begins))
    return frozenset(i for i in range(begins, stop) if (i - begins) % (run + 1) < run)


class _BWCacheSession(TrunkSession):
    """One generation.

    Attributes:
        served: Numbers of the steps that are served; None until the blocks were alike.
    """

    def __init__(self, policy: BWCache, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        self.served: frozenset[int] | None = None
        self._outputs: dict[Site, Tensor] = {}
        self._changes: list[Tensor] = []

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + sum(output.nbytes for output in self._outputs.values())

    def disturb(self) -> None:
        super().disturb()
        self._outputs, self._changes = {}, []

    def replay_blocks(self, stretches: Stretches) -> bool:
        """Never: every block's output is looked at."""
        return False

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        out = super().run(site, branch, x, cond)
        if site.kind == "block" and self.served is None and isinstance(self.trace[-1][self.job.trunk], Compute):
            if site in self._outputs:
                self._changes.append(sums(out, self._outputs[site], self.job))
            self._outputs[site] = out
        return out

    def decide(self, place: Place, seen: Seen) -> Action:
        if self.served is None and self._changes:
            # Read at the step after the measurement: the device need not be waited for in the middle of a step.
            self._begin(self.to_host(torch.stack(self._changes)))
        return REUSE if self.served is not None and self.i in self.served else COMPUTE

    def _begin(self, numbers: Sequence[float]) -> None:
        """Fix the schedule if the blocks are alike; from then on nobody looks at their outputs."""
        self._changes = []
        if all(change < self.policy.threshold for change in mean_changes(numbers, self.job.samples)):
            shares = {"interval": self.policy.interval, "tail": self.policy.tail}
            self.served = served_steps(self.i, self.job.steps, **shares)
            self._outputs = {}


def mean_changes(numbers: Sequence[float], samples: int) -> list[float]:
    """Mean over blocks of the relative change of each sample; NaN stays NaN.

    Args:
        numbers: Sums of changes and of magnitudes, [K, 2, B] in one row.
        samples: B.

    >>> mean_changes([1.0, 10.0, 3.0, 10.0], 1)
    [0.2]
    """
    size = 2 * samples
    blocks = [quotients(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    return [math.fsum(changes) / len(blocks) for changes in zip(*blocks, strict=True)]
