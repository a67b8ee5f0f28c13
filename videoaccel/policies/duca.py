"""DuCa: between full steps, careful ones refresh some tokens and bold ones compute nothing at all.

Source: Dual Feature Caching (arXiv 2412.18911), with the constants of its Open-Sora 1.2 configuration (480p, 51 frames,
30 steps): three full steps, then in turn a full one, a careful one (ToCa's: attention served, 14.95 % of the MLP's
tokens refreshed) and a bold one, in which the stream after the last block is replaced by that of the step before: 12
full, 9 careful and 9 bold steps, 2.50x fewer FLOPs. A token is worth more the smaller its values are in self-attention,
which needs no attention map.

Differences from the release: whole columns in fixed groups instead of single tokens, see :mod:`toca`. Values are looked
at where temporal attention uses them, for both MLPs of the layer: it has whole columns on any rank, and what its kernel
is given need not be computed once more.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import Attend, Branch, Site, attention
from videoaccel.policies._refresh import RefreshSession, first_served
from videoaccel.policies._trunk import require_steps
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import REUSE, Action, Place, Span
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class DuCa(Policy):
    """Between full steps, refresh some of the MLP's columns and skip all blocks, in turn."""

    knob: ClassVar[str] = "period"
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    period: int = Field(3, ge=2, description="Steps from one full step to the next.")
    cross_period: int | None = Field(
        None, ge=1, description="The same for cross-attention; default twice as many, as published."
    )
    keep: float = Field(0.1495, gt=0, le=1, description="Share of the columns that the MLP refreshes in careful steps.")
    age_weight: float = Field(0.25, ge=0, description="Worth of a column that was refreshed `period` steps ago.")
    warmup: int = Field(3, ge=1, description="Steps, at the start, that are full.")
    groups: int = Field(8, ge=1, description="Number of column groups.")

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        least = 1 + first_served(self.warmup, self.period)
        require_steps(job, least, f"duca with a warm-up of {self.warmup} and a period of {self.period}")
        cross = self.cross_period or 2 * self.period
        options = self.model_dump(exclude={"cross_period"})
        return _DucaSession(job, mix=mix, cross_period=cross, spans=[job.trunk], span_form="absolute", **options)


class _DucaSession(RefreshSession):
    def bold(self, step: int) -> bool:
        """Whether all blocks are passed by: every second step after a full one."""
        return step >= self.warmup and step % self.period != 0 and step % self.period % 2 == 0

    def decide(self, place: Place, seen: Seen) -> Action:
        if isinstance(place, Span) and self.bold(self.i):
            return REUSE
        return super().decide(place, seen)

    def keeps(self, place: Place) -> bool:
        if isinstance(place, Span):
            return self.i + 1 < self.job.steps and self.bold(self.i + 1)
        return super().keeps(place)

    def mixed(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        if site.kind != "attn" or site.axis != "time":
            return super().mixed(site, branch, h, cond, **options)

        def look(values: Tensor) -> None:
            small = (1 - values.float().norm(dim=-1)).sum(-1)  # [R*S, T]
            self.note(site, small.unflatten(0, (len(h), -1)).transpose(1, 2))

        return super().mixed(site, cast(Branch, _Seen(branch, look)), h, cond, **options)


class _Seen:
    """A branch whose attention shows its values [M, L, N, D] before it uses them, whatever kernel it is given."""

    def __init__(self, branch: Branch, look: Callable[[Tensor], None]) -> None:
        self.branch, self.look = branch, look

    def mix(self, h: Tensor, cond: Any, *, attend: Attend = attention, **options: Any) -> Tensor:
        def attend_and_show(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            self.look(v)
            return attend(q, k, v, mask)

        return self.branch.mix(h, cond, attend=attend_and_show, **options)
