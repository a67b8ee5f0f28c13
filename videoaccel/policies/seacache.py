"""SeaCache: the latent's change is measured after a filter that lets through what is signal at the present noise.

Source: SeaCache (arXiv 2602.18993). Where a latent is a x + b noise and the power of x falls with frequency f like
|f|^-p, the best linear denoiser has the gain a |f|^-p / (a^2 |f|^-p + b^2): low frequencies early, higher ones later.
Gains are divided by their mean, so that steps can be compared. As in TeaCache the relative changes between filtered
inputs of neighbouring steps are summed until they reach a threshold; till then what the blocks added is served. First
and last step are computed. Published thresholds: 0.2 and 0.35 on Wan 2.1 (50 steps; 0.48 and 0.34 of the FLOPs), 0.3
and 0.6 on FLUX (0.37 and 0.26); nothing for Open-Sora or Latte. No calibration.

The paper filters the input of the first block. Here, as in diffusers 0.42, it is the latent, which every rank has
whole, with p = 3 along each of time, rows and columns, gains multiplied. diffusers further serves no more than two
steps in a row and forecasts linearly; ``order`` 1 is that forecast.

Ours: the sums are each sample's own; a batch is computed where one of its samples is due; a number that is none is due.

Shape legend: B samples, Z latent channels, T latent frames, h, w latent sizes.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.policies._trunk import AccumulatingSession, quotients, require_steps
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Forecast, Place
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session

LEAST = 1e-6
"""Least share of signal, and of noise: a latent of pure noise has no gain."""


class SeaCache(Policy):
    """Serve what all blocks added, until the change of what is signal in the latent sums up to a threshold."""

    knob: ClassVar[str] = "threshold"
    sweep: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.9)

    threshold: float = Field(0.3, ge=0, description="Sum of relative changes at which the network runs again.")
    order: int = Field(0, ge=0, le=1, description="0 serves what the blocks added last; 1 forecasts it linearly.")
    power: float = Field(3.0, gt=0, le=8, description="How fast a clean latent's power falls with frequency.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`.

        Raises:
            ValueError: There are so few steps that all are computed.
        """
        require_steps(job, 3, "seacache")
        return _SeaCacheSession(self, job, mix)


class _SeaCacheSession(AccumulatingSession):
    def __init__(self, policy: SeaCache, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, threshold=policy.threshold, order=policy.order)
        self.policy = policy
        self._latent: Tensor | None = None

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        self._latent = x
        return super().predict(i, x, call)

    def decide(self, place: Place, seen: Seen) -> Action:
        assert self._latent is not None
        sigma = self.job.sigmas[:, self.i]
        signal = (1 - sigma**2).clamp(min=0).sqrt() if self.job.keeps_variance else 1 - sigma
        before, self.before = self.before, filtered(self._latent, signal, sigma, power=self.policy.power)
        if before is None or self.i in (0, self.job.steps - 1):
            return COMPUTE
        stats = torch.stack([(self.before - before).abs().flatten(1).sum(1), before.abs().flatten(1).sum(1)])
        if self.due(quotients(self.to_host(stats))):
            return COMPUTE
        return Forecast(1) if self.policy.order else REUSE


def filtered(x: Tensor, signal: Tensor, noise: Tensor, *, power: float) -> Tensor:
    """What is signal in a latent, float32 [B, Z, T, h, w].

    Args:
        x: The latent, likewise.
        signal: Share a of the clean latent in it, [B].
        noise: Share b of the noise, [B].
        power: Exponent p of a clean latent's spectrum.
    """
    gain = gains(x.shape[2:], signal.to(x.device), noise.to(x.device), power=power)
    spectrum = torch.fft.fftn(x.float(), dim=(2, 3, 4))
    return torch.fft.ifftn(spectrum * gain[:, None].float(), dim=(2, 3, 4)).real


def gains(size: Sequence[int], signal: Tensor, noise: Tensor, *, power: float) -> Tensor:
    """The filter, float64 [B, T, h, w] with mean 1 of each sample; arguments as in :func:`filtered`."""
    a = signal.double().clamp(LEAST, 1.0)[:, None]
    b = noise.double().clamp(LEAST, 1.0)[:, None]
    axes = []
    for length in size:
        frequency = torch.fft.fftfreq(length, dtype=torch.float64, device=a.device).abs()[None]
        axes.append(a / (a**2 + b**2 * frequency**power))  # both sides of the fraction times |f|^p
    time, row, column = axes
    found = time[:, :, None, None] * row[:, None, :, None] * column[:, None, None, :]
    return found / found.mean((1, 2, 3), keepdim=True)
