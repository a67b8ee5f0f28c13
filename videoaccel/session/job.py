"""What a method knows of a generation before it begins, and how it has the network run and tokens mixed.

Shape legend: B batch (samples), N steps, T latent frames, S places, Z latent channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from videoaccel.models.network_config import NetworkIdentity
from videoaccel.models.seam import Attend, Branch, Site, hands_on
from videoaccel.session.actions import Span
from videoaccel.session.columns import Columns
from videoaccel.session.costs import Costs, Unit

Velocities = Mapping[str, Tensor]
"""Raw network output by guidance branch (``cond``, ``uncond``), [B, Z, T, h, w] each."""


class Call(Protocol):
    """Runs the network at the present step."""

    def __call__(self, rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
        """Return velocities of some samples (default: all) and guidance branches (default: those of the job)."""
        ...


class Mix(Protocol):
    """How a session has a branch's tokens mixed: here, or across the ranks of a layout."""

    def __call__(
        self, site: Site, branch: Branch, h: Tensor, cond: Any, *, columns: Columns | None = None, **options: Any
    ) -> Tensor:
        """See :meth:`videoaccel.models.seam.Branch.mix`, whose ``options`` these are.

        Args:
            site: Where.
            branch: What is run.
            h: What ``pre`` returned, of all columns or of some.
            cond: The conditioning.
            columns: Which columns these are; needed in spatial attention, where other ranks hold others.
            **options: Of the branch.
        """
        ...


@hands_on
def local_mix(
    site: Site, branch: Branch, h: Tensor, cond: Any, *, columns: Columns | None = None, **options: Any
) -> Tensor:
    """Mix on this device: all tokens are here."""
    return branch.mix(h, cond, **options)


def kernel_mix(attend: Attend) -> Mix:
    """Mix on this device with a named attention kernel."""

    @hands_on
    def mix(
        site: Site, branch: Branch, h: Tensor, cond: Any, *, columns: Columns | None = None, **options: Any
    ) -> Tensor:
        return branch.mix(h, cond, **(options if site.kind == "mlp" else {"attend": attend, **options}))

    return mix


def alone(stats: Tensor) -> Tensor:
    """Agreement of one rank with itself."""
    return stats


@dataclass(frozen=True)
class Smaller:
    """The network on latents of other sizes than the generation's, whole on every rank and as it is.

    Attributes:
        call: (step, latent [B, Z, t, h, w]) -> velocities of that latent, of the guidance branches of this rank.
        share: (t, h, w) -> its tokens over those of the generation's latent; None if the network takes no such size.
    """

    call: Callable[[int, Tensor], Velocities]
    share: Callable[[Sequence[int]], float | None]


@dataclass(frozen=True)
class Job:
    """What is known of a generation before its first step.

    Attributes:
        sigmas: Noise level before each step and after the last, [B, N+1].
        latent_shape: Z, T, h, w of one sample.
        guidance_scale: Guidance; 1 means that only the conditional branch runs.
        branches: Guidance branches that run on this rank.
        x_mask: Which frames are being denoised at each step, [N, B, T]; None if all are.
        places: Number of real places S on this rank; a layout may add padding behind them.
        dtype: Type of the network.
        seed: Seed of the first sample.
        first_place: Number of the first of them among those of all ranks that share this clip.
        all_places: Number of places of all these ranks; None if all are here.
        agree: Sums numbers over the ranks that share this clip; the identity on one rank.
        blocks: The network's blocks in the order in which they run, each with its modules.
        prior: Calibrated tables by name, for methods that need them; None if there are none for this model and setting.
        costs: Counts FLOPs or measures milliseconds of the network at this size and batch, once; for planners.
        counted: The operations, if they were counted before; nothing is run for it.
        cache_memory: Bytes that stored values may take; None for any number.
        patch: Latent rows and columns to a place; None if that is not known.
        identity: Which network it is, see :func:`videoaccel.models.network_config.identity_of`.
        keeps_variance: Whether the squares of signal and noise add up to one (DDIM and its like); of a rectified flow
            they do themselves.
        smaller: Runs the network on smaller latents; None where that cannot be had.
    """

    sigmas: Tensor
    latent_shape: tuple[int, ...]
    guidance_scale: float
    branches: tuple[str, ...]
    x_mask: Tensor | None
    places: int
    dtype: torch.dtype
    seed: int
    first_place: int = 0
    all_places: int | None = None
    agree: Callable[[Tensor], Tensor] = alone
    blocks: Mapping[Site, tuple[Site, ...]] = field(default_factory=dict)
    prior: Mapping[str, Tensor] | None = None
    costs: Callable[[Unit], Costs] | None = None
    counted: Callable[[], Costs | None] | None = None
    cache_memory: int | None = None
    patch: tuple[int, int] | None = None
    identity: Callable[[], NetworkIdentity] | None = None
    keeps_variance: bool = False
    smaller: Smaller | None = None

    @property
    def steps(self) -> int:
        """N."""
        return self.sigmas.shape[1] - 1

    @property
    def samples(self) -> int:
        """B."""
        return self.sigmas.shape[0]

    @property
    def rows(self) -> int:
        """Rows of a whole network call: guidance branches times samples."""
        return self.samples * len(self.branches)

    @property
    def total_places(self) -> int:
        """S of the whole clip."""
        return self.places if self.all_places is None else self.all_places

    def changes(self) -> list[list[bool]]:
        """By step and sample whether other frames are being made than in the step before; brought from the device."""
        unchanged = [False] * self.samples
        if self.x_mask is None:
            return [unchanged] * self.steps
        return [unchanged, *(self.x_mask[1:] != self.x_mask[:-1]).any(-1).tolist()]

    @property
    def trunk(self) -> Span:
        """All blocks."""
        return Span(0, len(self.blocks))


def of_sample(job: Job, row: int) -> Job:
    """The job of one sample of a batch."""
    mask, limit = job.x_mask, job.cache_memory
    return replace(
        job,
        sigmas=job.sigmas[row : row + 1],
        x_mask=None if mask is None else mask[:, row : row + 1],
        seed=job.seed + row,
        cache_memory=None if limit is None else limit // job.samples,
    )
