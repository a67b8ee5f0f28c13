"""What ToCa and DuCa share: between full steps attention is served and the MLP refreshes some columns.

Shape legend: R generation rows (guidance branches times samples), T frames, S places, C channels, G column groups.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.models.seam import Site
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Partial, Place, Span
from videoaccel.session.columns import Columns
from videoaccel.session.job import Job, Mix, local_mix


def first_served(warmup: int, period: int) -> int:
    """The first step after the warm-up that is not full."""
    return warmup if warmup % period else warmup + 1


def unit_in_groups(worth: Tensor, *, length: int, places: int) -> Tensor:
    """Mean over frames of worth [R, T, S], after its tokens in each column group were scaled to L2 norm 1; [R, S].

    The publications scale all tokens of a clip together. Columns only compete within their group, and a group lies on
    one rank, so scaling by group changes no choice for the worth alone and needs no other rank.

    Args:
        worth: What each token is worth.
        length: Columns of a group.
        places: Real places; those behind are padding.
    """
    total = worth.shape[-1]
    real = min(places, total)
    worth = worth[..., :real]
    squares = F.pad(worth.square().sum(1), (0, -real % length)).unflatten(-1, (-1, length)).sum(-1)
    norms = squares.sqrt().clamp(min=1e-12).repeat_interleave(length, dim=-1)[:, :real]
    return F.pad(worth.mean(1) / norms, (0, total - real))


class RefreshSession(ActionSession):
    """Full steps, and between them served attention and partly refreshed MLPs.

    A subclass notes what the tokens of a block are worth (:meth:`note`). To that the age of a column counts: how long
    ago this MLP computed it.

    Args:
        job: The generation.
        mix: How tokens are mixed.
        period: Self-attention and MLP are computed every so many steps.
        cross_period: Cross-attention likewise.
        warmup: Steps, at the start, that are full.
        keep: Share of the columns that the MLP refreshes.
        age_weight: Worth of a column that is ``period`` steps old.
        options: Further ones of :class:`ActionSession`.
    """

    def __init__(
        self,
        job: Job,
        *,
        mix: Mix = local_mix,
        period: int,
        cross_period: int,
        warmup: int,
        keep: float,
        age_weight: float,
        **options: Any,
    ) -> None:
        super().__init__(job, mix=mix, **options)
        self.period, self.cross_period, self.warmup = period, cross_period, warmup
        self.keep, self.age_weight = keep, age_weight
        self._worth: dict[Site, Tensor] = {}
        self._refreshed: dict[Site, Tensor] = {}

    def note(self, site: Site, worth: Tensor) -> None:
        """Remember what the tokens of the block of ``site`` are worth, [R, T, S]."""
        mlp = site._replace(kind="mlp")
        length = -(-self.job.total_places // self.groups)
        self._worth[mlp] = unit_in_groups(worth, length=length, places=self.job.places)

    def full(self, kind: str, step: int) -> bool:
        """Whether modules of a kind are computed on all tokens in a step."""
        return step < self.warmup or step % (self.cross_period if kind == "cross" else self.period) == 0

    def decide(self, place: Place, seen: Seen) -> Action:
        """Everything in full steps; between them some columns of the MLP."""
        if isinstance(place, Span) or self.full(place.kind, self.i):
            return COMPUTE
        return Partial(self.keep) if place.kind == "mlp" else REUSE

    def keeps(self, place: Place) -> bool:
        """If the next step is served from it."""
        assert isinstance(place, Site)
        return self.i + 1 < self.job.steps and not self.full(place.kind, self.i + 1)

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        """All columns of an MLP are new."""
        if isinstance(place, Site) and place.kind == "mlp":
            rows, _, places, _ = delta.shape
            self._refreshed[place] = torch.full((rows, places), float(self.i), device=delta.device)

    def scores(self, site: Site, seen: Seen) -> Tensor:
        """What the columns are worth, and more the older they are; [R, S].

        A block in which nothing is noted takes what was noted in another block of its layer.
        """
        ages = self.i - self._refreshed[site]
        near = [worth for other, worth in self._worth.items() if other.layer == site.layer]
        worth = self._worth.get(site, near[0] if near else torch.zeros_like(ages))
        return worth + self.age_weight * ages / self.period

    def columns(self, site: Site, action: Partial, seen: Seen) -> Columns:
        """The columns worth most; they are new then."""
        chosen = super().columns(site, action, seen)
        places = chosen.places(seen.x.shape[2])
        self._refreshed[site] = self._refreshed[site].scatter(1, places, float(self.i))
        return chosen
