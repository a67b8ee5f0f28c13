"""What methods share that treat all blocks as one, and methods that measure before they serve.

Shape legend: R generation rows (guidance branches times samples), B samples, N steps, T frames, S places, C channels.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from videoaccel.models.seam import Site, Work
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import NoTableError, Probe

Constants = Literal["calibrated", "published"]
"""Where a method's numbers come from: a prior of this model and setting, or the paper (Open-Sora 1.2, 30 steps, 480p,
51 frames)."""

PUBLISHED_STEPS = 30
"""Steps for which constants were published."""


Residual = Literal["auto", "body", "output"]
"""Of pipelines that are not ours, what is forecast: the output, what all blocks add, or that where it can be told."""


def require_auto(residual: Residual, name: str, field: str) -> None:
    """Refuse a choice that is for pipelines that are not ours.

    Raises:
        ValueError: It was made.
    """
    if residual != "auto":
        raise ValueError(
            f"{name} with `residual={residual}` is for pipelines of diffusers that are not ours; on this model "
            f"`{field}` says what is served"
        )


def require_steps(job: Job, least: int, name: str) -> None:
    """Refuse a generation that is too short for a method to serve anything.

    Raises:
        ValueError: It has fewer than ``least`` steps.
    """
    if job.steps < least:
        raise ValueError(f"{name} needs at least {least} steps, got {job.steps}")


def require_branches(job: Job, name: str) -> None:
    """Refuse a generation whose guidance branches run on different ranks.

    Raises:
        ValueError: There is guidance, but only one of its branches is here.
    """
    if job.guidance_scale != 1 and not {"cond", "uncond"} <= set(job.branches):
        raise ValueError(f"{name} needs both guidance branches on one rank, got {', '.join(job.branches)}")


def table(job: Job, name: str, *, published: bool = True, by_step: bool = True) -> Tensor:
    """A table of the job's prior, on the CPU in float64.

    Args:
        job: The generation.
        name: The table, ``method.what``.
        published: Whether the method has published constants to point to.
        by_step: Whether its first dimension is the steps.

    Raises:
        ValueError: It is not there, or was measured with another number of steps.
    """
    found = None if job.prior is None else job.prior.get(name)
    if found is None:
        other = ", or set constants to 'published'" if published else ""
        raise NoTableError(f"no table {name!r} for this model and setting; make it with `videoaccel calibrate`{other}")
    if by_step and found.shape[0] != job.steps:
        raise ValueError(f"the table {name!r} was measured with {found.shape[0]} steps, here are {job.steps}")
    return found.detach().to("cpu", torch.float64)


def sums(new: Tensor, old: Tensor, job: Job) -> Tensor:
    """Sums of ``|new - old|`` and of ``|old|`` for every sample, all its guidance branches together; [2, B].

    Sums, because ranks that hold other places of the same clip add theirs; padded places do not count.

    Args:
        new: [R, T, S, C].
        old: Likewise.
        job: The generation.
    """
    new, old = new[:, :, : job.places], old[:, :, : job.places]
    both = torch.stack([(new - old).abs().sum((1, 2, 3), dtype=torch.float32), magnitude(old)])
    return both.view(2, -1, job.samples).sum(1)


def magnitude(x: Tensor) -> Tensor:
    """Sum of absolute values of each row, float32 [R]."""
    return x.abs().sum((1, 2, 3), dtype=torch.float32)


def quotients(numbers: Sequence[float]) -> list[float]:
    """First half over second half, sample by sample; 0/0 is no change, and NaN stays NaN."""
    half = len(numbers) // 2
    pairs = zip(numbers[:half], numbers[half:], strict=True)
    return [above / below if below else (math.inf if above else 0.0) for above, below in pairs]


def modulated(seen: Seen) -> Tensor:
    """The stream entering a block as its self-attention sees it: normed, shifted and scaled for the timestep."""
    return seen.work.attn.pre(seen.x, seen.work.localise(seen.cond))


class TrunkSession(ActionSession):
    """All blocks are decided as one, so that a single residual is stored."""

    decides_modules = False

    def __init__(self, job: Job, *, mix: Mix = local_mix, **options: Any) -> None:
        super().__init__(job, mix=mix, spans=[job.trunk], **options)


class AccumulatingSession(TrunkSession):
    """Adds up what a signal changes from step to step, until one sample has changed enough to run the network.

    Attributes:
        before: The signal of the step before; None where there is none to compare with.
        threshold: How much is enough.
        total: Changes since the network ran, of each sample.
    """

    def __init__(self, job: Job, *, mix: Mix, threshold: float, **options: Any) -> None:
        super().__init__(job, mix=mix, **options)
        self.threshold = threshold
        self.total = [0.0] * job.samples
        self.before: Tensor | None = None

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + (0 if self.before is None else self.before.nbytes)

    def disturb(self) -> None:
        super().disturb()
        self.before = None

    def expected(self, change: float) -> float:
        """What a relative change of the signal means for the output; here itself."""
        return change

    def due(self, changes: Sequence[float]) -> bool:
        """Whether one sample has changed enough; a number that is none is enough."""
        found = [self.expected(change) if math.isfinite(change) else math.inf for change in changes]
        self.total = [total + change for total, change in zip(self.total, found, strict=True)]
        return not all(total < self.threshold for total in self.total)

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        self.total = [0.0] * self.job.samples


class TrunkProbe(Probe):
    """A dense run in which the stream can be looked at before and after all blocks."""

    def __init__(self, job: Job, *, mix: Mix = local_mix) -> None:
        super().__init__(job, mix=mix)
        self._first, self._last = next(iter(job.blocks)), list(job.blocks)[-1]
        self._entry: Tensor | None = None

    def entered(self, seen: Seen) -> None:
        """Shown the stream and the work at the first block."""

    def left(self, residual: Tensor) -> None:
        """Shown what all blocks added, float32 [R, T, S, C]."""

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if site == self._first:
            self._entry = x
            self.entered(Seen(branch, x, cond))
        out = super().run(site, branch, x, cond)
        if site == self._last and self._entry is not None:
            self.left(out.float() - self._entry.float())
            self._entry = None
        return out


def by_step(stats: Sequence[Tensor], job: Job) -> Tensor:
    """Quotients [B, N] of the sums [2, B] measured from the second step on.

    Nothing comes before the first step: its entry repeats the second's, so that a table can be interpolated in time.
    """
    above, below = job.agree(torch.stack(list(stats), dim=-1)).double().cpu()
    measured = above / below.clamp(min=1e-30)
    return torch.cat([measured[:, :1], measured], dim=-1).float()
