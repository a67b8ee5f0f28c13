"""ToCa: between full steps attention is served and the MLP is computed on the tokens that need it most.

Source: Token-wise Feature Caching (arXiv 2410.05317), with the constants of its Open-Sora 1.2 configuration (480p, 51
frames, 30 steps): three full steps, then self-attention and MLP every 3rd and cross-attention every 6th step; in
between the MLP refreshes 14.95 % of the tokens ("R = 85 %", 2.36x fewer FLOPs). A token is worth more the higher the
entropy of its cross-attention was when that was computed last (averaged over heads and guidance branches), and the
longer ago it was refreshed.

Differences from the release: it picks single tokens, here whole columns (a place in all frames) are picked, in fixed
groups, so that the choice does not depend on the number of ranks; a column's worth is the mean over its tokens. The
released schedule for cross-attention comes out at no tokens at all, so it is served whole here. To see the attention
map, cross-attention runs without a fused kernel in its full steps, as in the release, but one head at a time.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from videoaccel.models.seam import Branch, Site
from videoaccel.policies._refresh import RefreshSession, first_served
from videoaccel.policies._trunk import require_branches, require_steps
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class ToCa(Policy):
    """Serve attention between full steps and refresh the MLP where cross-attention is least certain."""

    knob: ClassVar[str] = "period"
    joins_branches: ClassVar[bool] = True
    sweep: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)

    period: int = Field(3, ge=2, description="Self-attention and MLP are computed every so many steps.")
    cross_period: int | None = Field(
        None, ge=1, description="Cross-attention likewise; default twice as many, as published."
    )
    keep: float = Field(
        0.1495, gt=0, le=1, description="Share of the columns that the MLP refreshes in the other steps."
    )
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
        require_steps(job, least, f"toca with a warm-up of {self.warmup} and a period of {self.period}")
        require_branches(job, "toca")
        cross = self.cross_period or 2 * self.period
        options = self.model_dump(exclude={"cross_period"})
        return _TocaSession(job, mix=mix, cross_period=cross, **options)


class _TocaSession(RefreshSession):
    def mixed(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        if site.kind != "cross":
            return super().mixed(site, branch, h, cond, **options)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            out, entropy = attention_with_entropy(q, k, v, mask)
            worth = 1 + entropy.view(h.shape[:3])
            branches = worth.unflatten(0, (-1, self.job.samples))
            self.note(site, branches.mean(0, keepdim=True).expand_as(branches).flatten(0, 1))
            return out

        return super().mixed(site, branch, h, cond, attend=attend, **options)


def attention_with_entropy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention as in :class:`videoaccel.models.seam.Attend`, and the entropy of its map, mean over heads.

    One head at a time: the maps of all would be large.

    Returns:
        [M, L, N, D] and float32 [M, L], in nats.
    """
    outs, entropy = [], q.new_zeros(q.shape[:2], dtype=torch.float32)
    for queries, keys, values in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        scores = (queries @ keys.transpose(1, 2)).float() * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask.squeeze(1), -torch.inf)
        weights = scores.softmax(-1)
        entropy += torch.special.entr(weights).sum(-1)
        outs.append(weights.to(values.dtype) @ values)
    return torch.stack(outs, dim=2), entropy / q.shape[2]
