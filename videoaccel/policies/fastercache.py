"""FasterCache: self-attention is extrapolated in every second step, and guidance runs one branch most of the time.

Source: FasterCache (arXiv 2410.19355), with the constants of its Open-Sora 1.2 configuration (480p, 192 frames, 30
steps; in all that follows a step's number counts from 1). From step 8 on every even step serves self-attention: the
last computed output plus its change since the one before, weighted by 0.9 * (step - 7) / 20. From step 12 on only every
5th step runs the unconditional branch. In between its velocity is the conditional one plus the branches' last
difference, whose low and high spatial frequencies are amplified by 1.15 a step: the high ones from step 20, the low
ones up to step 25.

Differences from the release: steps are fractions of any number of steps. In even steps that run both branches (20 and
30) the unconditional branch's last attention is older than the conditional one's. The release, whose history has
forgotten it, takes the conditional one's for both; here self-attention is computed in these steps, so that it is served
in 10 instead of 12 steps: the branches' difference, which the next four steps live on, must not be made from attention
of different steps (docs/decisions.md has numbers). The difference is split into bands once, when it is made, which
gives the same sum as splitting the conditional velocity at every step.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import BODY, Site
from videoaccel.policies._trunk import require_branches, require_steps
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Borrow, Forecast, Place
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session


class FasterCache(Policy):
    """Extrapolate self-attention every second step; rebuild the unconditional branch from the conditional one."""

    knob: ClassVar[str] = "interval"
    joins_branches: ClassVar[bool] = True
    sweep: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 8)

    interval: int = Field(
        5, ge=1, description="In the second part both guidance branches run every so many steps; 1 always."
    )
    attention_start: float = Field(
        7 / 30, ge=0, le=1, description="Share of the steps before the first in which self-attention is served."
    )
    weight: float = Field(
        0.9, ge=0, description="Weight of self-attention's change, reached `ramp` after `attention_start`."
    )
    ramp: float = Field(
        20 / 30, gt=0, description="Share of the steps in which the weight grows to its full size; it goes on growing."
    )
    guidance_start: float = Field(
        11 / 30, ge=0, le=1, description="Share of the steps before the first that may run one branch."
    )
    gain: float = Field(
        1.15, gt=0, description="Factor by which a band of the difference grows with each step that runs one branch."
    )
    high_from: float = Field(19 / 30, ge=0, le=1, description="Share of the steps before the high band grows.")
    low_until: float = Field(
        25 / 30, ge=0, le=1, description="Share of the steps after which the low band grows no more."
    )
    radius: float = Field(
        0.2, ge=0, description="Radius of the low band, as a share of the shorter side of the latent."
    )

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`. Without guidance only self-attention is served."""
        require_steps(job, 3, "fastercache")
        require_branches(job, "fastercache")
        return _FasterCacheSession(self, job, mix)


def split_bands(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Split every frame of x [..., h, w] into low and high spatial frequencies; they sum up to it.

    Args:
        x: Real numbers.
        radius: Radius of the low band as a share of the shorter side; in whole frequencies, rounded down.
    """
    height, width = x.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=x.device)
    columns = torch.fft.rfftfreq(width, 1 / width, device=x.device)
    reach = int(radius * min(height, width) + 1e-6)
    disc = rows[:, None] ** 2 + columns**2 <= reach**2
    low = torch.fft.irfft2(torch.fft.rfft2(x.float()) * disc, s=(height, width))
    return low, x.float() - low


class _FasterCacheSession(ActionSession):
    def __init__(self, policy: FasterCache, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, order=1)
        self.policy, steps = policy, job.steps
        self.start = max(2, round(policy.attention_start * steps))
        self.ramp = policy.ramp * steps
        self.alone_from = max(1, round(policy.guidance_start * steps))
        self.high_from, self.low_until = round(policy.high_from * steps), round(policy.low_until * steps)
        self._bands: tuple[Tensor, Tensor] | None = None

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + sum(band.nbytes for band in self._bands or ())

    def disturb(self) -> None:
        super().disturb()
        self._bands = None

    # Self-attention ------------------------------------------------------------------------------------------------

    def decide(self, place: Place, seen: Seen) -> Action:
        assert isinstance(place, Site)
        ahead = self.i - self.start
        if place.kind != "attn" or ahead < 0 or ahead % 2 or not self._abreast(place):
            return COMPUTE
        return Forecast(1, gain=self.policy.weight * (ahead + 1) / self.ramp)

    def _abreast(self, place: Place) -> bool:
        """Whether the rows that run were computed in the same step last."""
        slot = self.slots.get(place)
        rows = range(self.job.rows) if self.rows is None else self.rows
        return slot is not None and len({slot.steps[row] for row in rows}) == 1

    def keeps(self, place: Place) -> bool:
        assert isinstance(place, Site)
        return place.kind == "attn" and self.start - 2 <= self.i < self.job.steps - 1

    def _stored(self, place: Place, action: Action) -> Tensor:
        """The last value plus a share of its change: however far apart the two were, unlike in a Taylor series."""
        assert isinstance(action, Forecast)
        slot = self.slots[place]
        return slot.read(self.i, self.rows) + action.gain * slot.change(self.rows)

    # Guidance ------------------------------------------------------------------------------------------------------

    def alone(self, step: int) -> bool:
        """Whether the conditional branch runs alone in a step."""
        return "uncond" in self.job.branches and step >= self.alone_from and (step + 1) % self.policy.interval != 0

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        self.begin(i)
        if self.alone(i) and self._bands is not None:
            cond = self.network(call, ("cond",))["cond"]
            self.trace[-1][BODY] = Borrow("uncond")
            low, high = self._bands
            low = low * self.policy.gain if i < self.low_until else low
            high = high * self.policy.gain if i >= self.high_from else high
            self._bands = low, high
            return {"cond": cond, "uncond": (cond.float() + low + high).to(cond.dtype)}
        out = self.network(call)
        if self.alone(i + 1):
            self._bands = split_bands(out["uncond"].float() - out["cond"].float(), self.policy.radius)
        return out
