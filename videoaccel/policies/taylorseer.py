"""TaylorSeer: between computed steps, what the network adds is forecast by a Taylor series.

Source: From Reusing to Forecasting (arXiv 2503.06923): every ``period``-th step is computed, and finite differences of
the last ones stand for the derivatives. Published settings are period 4, order 4 for DiT-XL with 50 steps and period 5
to 6, order 1 for HunyuanVideo (5x fewer FLOPs); nothing was published for Open-Sora. The release forecasts every
module's output before its gate, which at 480p and 51 frames would take 35 GiB for order 1; by default what all blocks
add is forecast instead, one tensor per order.
"""

from typing import ClassVar, Literal

from pydantic import Field

from videoaccel.policies._trunk import Residual, require_auto, require_steps
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Forecast, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class TaylorSeer(Policy):
    """Compute every n-th step and forecast what all blocks (or every module) add in between."""

    knob: ClassVar[str] = "period"
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    period: int = Field(3, ge=2, description="Steps from one computed step to the next.")
    order: int = Field(
        1, ge=0, le=4, description="Highest derivative; as many as the computed steps so far allow are used."
    )
    warmup: int = Field(3, ge=1, description="Steps, at the start, that are always computed.")
    scope: Literal["trunk", "modules"] = Field(
        "trunk", description="Forecast all blocks as one, or every module's output as published."
    )

    later: ClassVar[tuple[str, ...]] = ("residual",)

    residual: Residual = Field(
        "auto",
        description="Of other pipelines: what all blocks add (body), the output, or auto: body where that can be told.",
    )

    def coarser(self) -> "TaylorSeer | None":
        """All blocks as one."""
        return self.model_copy(update={"scope": "trunk"}) if self.scope == "modules" else None

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def due(self, i: int) -> bool:
        """Whether step ``i`` is computed."""
        since = i - (self.warmup - 1)
        return since <= 0 or since % self.period == 0

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_auto(self.residual, "taylorseer", "scope")
        require_steps(job, self.warmup + 1, f"taylorseer with a warm-up of {self.warmup}")
        return _TaylorSession(self, job, mix)


class _TaylorSession(ActionSession):
    def __init__(self, policy: TaylorSeer, job: Job, mix: Mix) -> None:
        whole = policy.scope == "trunk"
        super().__init__(job, mix=mix, spans=[job.trunk] if whole else (), order=policy.order)
        self.decides_modules = not whole
        self.policy = policy

    def decide(self, place: Place, seen: Seen) -> Action:
        return COMPUTE if self.policy.due(self.i) else Forecast(self.policy.order)
