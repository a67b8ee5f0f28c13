"""FORA: a fixed period for all modules.

Source: FORA (arXiv 2407.01425); period and warm-up as in its Open-Sora port in ToCa's repository: the first three steps
are computed, then every ``period``-th (period 2: 16 of 30 steps, 1.875x fewer FLOPs).
"""

from typing import ClassVar, Literal

from pydantic import Field

from videoaccel.policies._trunk import Residual, require_auto
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class Fora(Policy):
    """Serve every module's output from the last computed step, with the present gate; compute every n-th step."""

    knob: ClassVar[str] = "period"
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    period: int = Field(2, ge=1, description="Steps from one computed step to the next.")
    warmup: int = Field(3, ge=1, description="Steps, at the start, that are always computed.")

    slots: Literal["modules", "trunk"] = Field(
        "modules", description="Serve every module's output as published, or one residual of all blocks."
    )

    later: ClassVar[tuple[str, ...]] = ("residual",)

    residual: Residual = Field(
        "auto",
        description="Of other pipelines: hold what all blocks add (body), the output, or body where it can be told.",
    )

    def coarser(self) -> "Fora | None":
        """One residual of all blocks."""
        return self.model_copy(update={"slots": "trunk"}) if self.slots == "modules" else None

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def due(self, i: int) -> bool:
        """Whether step ``i`` is computed."""
        return i < self.warmup or i % self.period == 0

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_auto(self.residual, "fora", "slots")
        return _ForaSession(self, job, mix)


class _ForaSession(ActionSession):
    def __init__(self, policy: Fora, job: Job, mix: Mix) -> None:
        whole = policy.slots == "trunk"
        super().__init__(job, mix=mix, spans=[job.trunk] if whole else ())
        self.decides_modules = not whole
        self.policy = policy

    def decide(self, place: Place, seen: Seen) -> Action:
        return COMPUTE if self.policy.due(self.i) else REUSE
