"""EasyCache: what the network makes of its input is served again while its output is expected to change little.

Source: EasyCache (arXiv 2507.02860). Over neighbouring steps the change of the network's output is nearly proportional
to the change of its input; the rate ``k`` is taken from the last two computed steps. From it the relative change of
the output is foretold at every step, and these are summed until they reach the threshold; till then the difference of
output and input of the last computed step is put on the present input. The first steps are always computed, and so
is the last one. Published for 50 steps of HunyuanVideo (threshold 2.5 %, 5 first steps) and Wan 2.1 (5 %, 10), and for
Open-Sora 1.2 (10 %, 5 of 30).

The paper writes of the step before (its input, its output, and the rate there), the release takes the last computed
step's output, and the rate from the last two computed ones; so do we. The release looks at the conditional branch.

Ours: changes are summed over guidance branches, so both are served or neither; a batch is computed where one of its
samples is due; a number that is none is due.

Shape legend: B samples, Z latent channels, T latent frames, h, w latent sizes.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import BODY
from videoaccel.policies._trunk import require_steps
from videoaccel.session.actions import COMPUTE, REUSE
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session


class EasyCache(Policy):
    """Serve what the network made of its input, until the output's foretold change sums up to a threshold."""

    knob: ClassVar[str] = "threshold"
    sweep: ClassVar[tuple[float, ...]] = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)

    threshold: float = Field(0.1, ge=0, description="Sum of foretold relative changes at which the network runs again.")
    warmup: int = Field(5, ge=2, description="Steps, at the start, that are always computed.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`.

        Raises:
            ValueError: There are so few steps that all are computed.
        """
        require_steps(job, self.warmup + 2, f"easycache with a warm-up of {self.warmup}")
        return EasyCacheSession(self, job, mix)


class EasyCacheSession(Session):
    """One generation.

    Attributes:
        total: Foretold changes since the network ran, of each sample.
    """

    def __init__(self, policy: EasyCache, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        self.total = [0.0] * job.samples
        self._made: dict[str, Tensor] = {}
        self._before: Tensor | None = None
        self._ran: tuple[Tensor, dict[str, Tensor]] | None = None
        self._rates: Tensor | None = None

    @property
    def cache_bytes(self) -> int:
        """What the network made of its input, the last two inputs, and its last output."""
        kept = [*self._made.values(), *([] if self._before is None else [self._before])]
        kept += [] if self._ran is None else [self._ran[0], *self._ran[1].values()]
        return sum({id(x): x.nbytes for x in kept}.values())

    def disturb(self) -> None:
        """See :meth:`Session.disturb`."""
        self._made, self._before, self._ran, self._rates = {}, None, None, None

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Run the network, or put on the latent what it put on the last one."""
        self.begin(i)
        mask = self.job.x_mask
        if mask is not None and i > 0 and not torch.equal(mask[i], mask[i - 1]):
            self.disturb()
        before, self._before = self._before, x
        if not self._due(i, x, before):
            self.trace[-1][BODY] = REUSE
            return {name: x + made for name, made in self._made.items()}
        self.trace[-1][BODY] = COMPUTE
        out = dict(self.network(call))
        self._note(x, out)
        self.peak_bytes = max(self.peak_bytes, self.cache_bytes)
        return out

    def _note(self, x: Tensor, out: dict[str, Tensor]) -> None:
        """Remember what the network said of x, and by how much it changed since it ran last."""
        size = torch.stack([_sums(value) for value in out.values()]).sum(0)
        if self._ran is None:
            self._rates = None
        else:
            moved, said = self._ran
            change = torch.stack([_sums(value - said[name]) for name, value in out.items()]).sum(0)
            self._rates = torch.stack([change, len(out) * _sums(x - moved), size])
        self._ran = x, out
        self._made = {name: value - x for name, value in out.items()}
        self.total = [0.0] * self.job.samples

    def _due(self, i: int, x: Tensor, before: Tensor | None) -> bool:
        """Whether the network runs in step ``i``."""
        if i < self.policy.warmup or i == self.job.steps - 1 or before is None or self._rates is None:
            return True
        moved = len(self._made) * _sums(x - before)
        numbers = self.to_host(torch.cat([moved[None], self._rates]))
        count = self.job.samples
        expected = foretold(*(numbers[k * count : (k + 1) * count] for k in range(4)))
        self.total = [total + change for total, change in zip(self.total, expected, strict=True)]
        return not all(total < self.policy.threshold for total in self.total)


def foretold(
    moved: Sequence[float], changed: Sequence[float], by: Sequence[float], size: Sequence[float]
) -> list[float]:
    """Relative changes of the output that are to be expected; infinite where numbers tell none.

    Args:
        moved: Change of the input since the step before, by sample, a sum of absolute values.
        changed: Change of the output between the last two computed steps.
        by: Change of the input between these.
        size: The last computed output.

    >>> foretold([2.0], [3.0], [6.0], [10.0])
    [0.1]
    """
    found = []
    for m, c, b, s in zip(moved, changed, by, size, strict=True):
        change = (c / b) * m / s if b > 0 and s > 0 else math.inf
        found.append(change if math.isfinite(change) else math.inf)
    return found


def _sums(x: Tensor) -> Tensor:
    """Sum of absolute values of every sample, [B]."""
    return x.float().abs().flatten(1).sum(1)
