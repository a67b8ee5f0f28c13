"""What an acceleration method is to the rest of the house: a policy makes a session, a session answers two questions.

*Shall this step run?* (:meth:`Session.predict`) and *shall this branch run?* (:meth:`Session.run`). Both are answered
"compute" here; a method overrides what it changes. A session lives for one generation and is never reset.

Shape legend: B batch (samples), N steps, T latent frames, S places, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from videoaccel.models.seam import Attend, Branch, Site, Work

Velocities = Mapping[str, Tensor]
"""Raw network output by guidance branch (``cond``, ``uncond``), [B, Z, T, h, w] each."""


class Call(Protocol):
    """Runs the network at the present step."""

    def __call__(self, rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
        """Return velocities of some samples (default: all) and guidance branches (default: those of the job)."""
        ...


class Mix(Protocol):
    """How a session has a branch's tokens mixed: here, or across the ranks of a layout."""

    def __call__(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        """See :meth:`videoaccel.models.seam.Branch.mix`, whose ``options`` these are."""
        ...


def local_mix(site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
    """Mix on this device: all tokens are here."""
    return branch.mix(h, cond, **options)


def kernel_mix(attend: Attend) -> Mix:
    """Mix on this device with a named attention kernel."""

    def mix(site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        return branch.mix(h, cond, **(options if site.kind == "mlp" else {"attend": attend, **options}))

    return mix


def alone(stats: Tensor) -> Tensor:
    """Agreement of one rank with itself."""
    return stats


@dataclass(frozen=True)
class Job:
    """What is known of a generation before its first step.

    Attributes:
        sigmas: Noise level before each step and after the last, [B, N+1].
        latent_shape: Z, T, h, w of one sample.
        guidance_scale: Guidance; 1 means that only the conditional branch runs.
        branches: Guidance branches that run on this rank.
        x_mask: Which frames are being denoised at each step, [N, B, T]; None if all are.
        places: Number of real places S; a layout may add padding behind them.
        dtype: Type of the network.
        seed: Seed of the first sample.
        agree: Sums numbers over the ranks that share this clip; the identity on one rank.
        plan: A planner's action per step and site, where there is one.
    """

    sigmas: Tensor
    latent_shape: tuple[int, ...]
    guidance_scale: float
    branches: tuple[str, ...]
    x_mask: Tensor | None
    places: int
    dtype: torch.dtype
    seed: int
    agree: Callable[[Tensor], Tensor] = alone
    plan: Any = None

    @property
    def steps(self) -> int:
        """N."""
        return self.sigmas.shape[1] - 1


class Session:
    """One generation under a policy. This one computes everything: the machinery with nothing changed."""

    def __init__(self, job: Job, *, mix: Mix = local_mix) -> None:
        self.job, self.mix = job, mix

    def begin(self, i: int) -> None:
        """Called first in step ``i``."""

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Return the velocities of step ``i`` at latent ``x`` [B, Z, T, h, w]."""
        return call()

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam, see :class:`videoaccel.models.seam.Run`."""
        if site.kind in ("body", "block"):
            return branch.compute(x, cond, self.run)
        module = cast(Branch, branch)
        return module.add(x, self.mix(site, module, module.pre(x, cond), cond), cond)


class Policy(Protocol):
    """A method's validated, frozen configuration."""

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """Make the session of one generation."""
        ...
