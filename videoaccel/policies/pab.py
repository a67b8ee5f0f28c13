"""PAB: attention outputs are broadcast to the next steps, the further the less they change.

Source: Pyramid Attention Broadcast (arXiv 2408.12588), with the constants of its Open-Sora 1.2 configuration. In a
window in the middle of the generation spatial, temporal and cross-attention are computed every 2nd, 4th and 6th step
(3/5/7 and 5/7/9 are the faster published settings), and a few MLPs are served for two steps at three points. The
release gives window and points as timesteps; they are step fractions here: at 30 steps, 480p and 51 frames the released
window 450 < t < 930 holds steps 9 to 25, and the MLP's points 864, 788 and 676 are steps 13, 17 and 21. (As timesteps
they exist only in that one schedule; elsewhere the released MLP broadcast never happens.) Computed there at 2/4/6:
spatial attention in 21, temporal in 17, cross-attention in 16 of 30 steps.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from videoaccel.models.seam import Site
from videoaccel.policies._trunk import require_steps
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class Pab(Policy):
    """Serve attention outputs in a window of the generation: temporal longer than spatial, cross-attention longest."""

    knob: ClassVar[str] = "spatial"
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    spatial: int = Field(2, ge=1, description="Spatial attention is computed every so many steps.")
    temporal: int | None = Field(
        None, ge=1, description="Temporal attention likewise; default two steps more, as in all published settings."
    )
    cross: int | None = Field(None, ge=1, description="Cross-attention likewise; default four steps more than spatial.")
    start: float = Field(9 / 30, ge=0, lt=1, description="Share of the steps before the window.")
    stop: float = Field(26 / 30, gt=0, le=1, description="Share of the steps before its end.")
    mlp_points: tuple[float, ...] = Field(
        (13 / 30, 17 / 30, 21 / 30), description="Shares of the steps before those whose MLP outputs are kept."
    )
    mlp_steps: int = Field(2, ge=0, description="Steps for which they are served.")
    mlp_layers: float = Field(
        5 / 28, ge=0, le=1, description="Share of the layers, from the first, whose MLPs take part."
    )

    @model_validator(mode="after")
    def _window(self) -> "Pab":
        if self.start >= self.stop:
            raise ValueError(f"the window starts at {self.start:g} and stops at {self.stop:g}")
        if any(not 0 <= point < 1 for point in self.mlp_points):
            raise ValueError(f"mlp_points are shares of the steps in [0, 1), not {self.mlp_points}")
        return self

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, 2, "pab")
        return _PabSession(self, job, mix)


class _PabSession(ActionSession):
    def __init__(self, policy: Pab, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix, form="gated")
        steps, layers = job.steps, 1 + max(site.layer for site in job.blocks)
        self.window = range(round(policy.start * steps), round(policy.stop * steps))
        points = {round(point * steps) for point in policy.mlp_points}
        self.mlp_steps = {p + k for p in points for k in range(1, policy.mlp_steps + 1)} - points
        self.mlp_layers = max(1, round(policy.mlp_layers * layers)) if policy.mlp_layers else 0
        self.periods = {
            ("attn", "space"): policy.spatial,
            ("attn", "joint"): policy.spatial,
            ("attn", "time"): policy.temporal or policy.spatial + 2,
        }
        self.cross = policy.cross or policy.spatial + 4

    def serves(self, site: Site, step: int) -> bool:
        """Whether a module is served in a step."""
        if site.kind == "mlp":
            return site.layer < self.mlp_layers and step in self.mlp_steps
        period = self.cross if site.kind == "cross" else self.periods[site.kind, site.axis]
        return step in self.window and step % period != 0

    def decide(self, place: Place, seen: Seen) -> Action:
        assert isinstance(place, Site)
        return REUSE if self.serves(place, self.i) else COMPUTE

    def keeps(self, place: Place) -> bool:
        assert isinstance(place, Site)
        return self.i + 1 < self.job.steps and self.serves(place, self.i + 1)
