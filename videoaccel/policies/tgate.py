"""T-GATE: the text matters early; from a gate step on, cross-attention is served and guidance is dropped.

Source: Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models (T-GATE, arXiv 2404.02747), made
for images (gate at step 15 of 25 for PixArt). Before the gate self-attention is computed every few steps only. At the
last step before it all attention is computed and the outputs of the two guidance branches are averaged; from the gate
on cross-attention is served from them and the conditional branch runs alone. For Open-Sora 1.2 there is only PAB's
port, with a gate at about step 12 of 30 and self-attention every 2nd step; it fares badly there (LPIPS 0.35), since
that model's guidance of 7 is needed late, and is here for comparison.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import BODY, Site
from videoaccel.policies._trunk import require_branches, require_steps
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Borrow, Place
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session


class TGate(Policy):
    """Serve cross-attention and drop guidance from a gate step on; before it, serve self-attention now and then."""

    knob: ClassVar[str] = "gate"
    joins_branches: ClassVar[bool] = True
    sweep: ClassVar[tuple[float, ...]] = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

    gate: float = Field(12 / 30, gt=0, le=1, description="Share of the steps before the gate.")
    period: int = Field(2, ge=1, description="Before the gate, self-attention is computed every so many steps.")
    late_period: int = Field(1, ge=1, description="From the gate on likewise; 1 computes it always.")
    warmup: int = Field(2, ge=0, description="Steps, at the start, in which everything is computed.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`. Without guidance there is no branch to drop, only cross-attention is served."""
        require_steps(job, 2, "tgate")
        require_branches(job, "tgate")
        return _TGateSession(self, job, mix)


class _TGateSession(ActionSession):
    def __init__(self, policy: TGate, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        self.gate = max(1, round(policy.gate * job.steps))

    def serves(self, kind: str, step: int) -> bool:
        """Whether modules of a kind are served in a step."""
        policy = self.policy
        if kind == "mlp" or step < policy.warmup or step == self.gate - 1:
            return False
        if kind == "cross":
            return step >= self.gate
        if step >= self.gate:
            return step % policy.late_period != 0
        return step != policy.warmup and step % policy.period != 0

    def decide(self, place: Place, seen: Seen) -> Action:
        assert isinstance(place, Site)
        return REUSE if self.serves(place.kind, self.i) else COMPUTE

    def keeps(self, place: Place) -> bool:
        assert isinstance(place, Site)
        return self.i + 1 < self.job.steps and self.serves(place.kind, self.i + 1)

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        if i < self.gate or "uncond" not in self.job.branches:
            out = super().predict(i, x, call)
            if i == self.gate - 1:
                self._average()
            return out
        self.begin(i)
        alone = self.network(call, ("cond",))["cond"]
        self.trace[-1][BODY] = Borrow("uncond")
        # Guidance between two equal velocities is that velocity, at any scale.
        return {"cond": alone, "uncond": alone}

    def _average(self) -> None:
        """Replace what slots keep by the mean over the guidance branches."""
        for slot in self.slots.values():
            kept = slot.read(self.i).unflatten(0, (len(self.job.branches), -1))
            slot.patch(kept.mean(0, keepdim=True).expand_as(kept).flatten(0, 1))
