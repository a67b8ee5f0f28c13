"""The errors that SODA plans with, measured during a dense run.

Shape legend: B samples, N steps, M sites, K shares, A ages, T frames, S places, C channels.
"""

import math
from collections import deque
from typing import Any, Literal

import torch
from torch import Tensor

from videoaccel.models.seam import Site, Work
from videoaccel.planning.forecast_errors import AGES as STEP_AGES
from videoaccel.planning.forecast_errors import ORDERS, errors_of
from videoaccel.sampling.guidance import combine
from videoaccel.session.columns import Select, choose, score
from videoaccel.session.cosine import cosine_error
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Probe

AGES = 5
"""Greatest age that is calibrated: intervals up to 6 steps."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of columns for which the prune error is calibrated."""


class ErrorProbe(Probe):
    """Runs densely and compares every module's output with what could have been served instead.

    Keeps the last outputs of every site in the memory of the device: 2 * ages + 1 of them, and while a site is measured
    some more of its own.

    Args:
        job: The generation.
        mix: How tokens are mixed.
        sites: Measure these only; all by default.
        select: How columns are chosen.
        keys: What pruned spatial attention looks at.
    """

    held = 2 * AGES + 1 + len(SHARES) + 2
    by_site = ("soda.cache", "soda.prune", "soda.forecast")

    def __init__(
        self,
        job: Job,
        *,
        mix: Mix = local_mix,
        sites: frozenset[Site] | None = None,
        select: Select = "signed",
        keys: Literal["kept", "all"] = "all",
        groups: int = 8,
    ) -> None:
        super().__init__(job, mix=mix)
        every = [site for modules in job.blocks.values() for site in modules]
        self.sites = {site: number for number, site in enumerate(every)}
        self.select: Select = select
        self.keys, self.groups = keys, groups
        self.past: dict[Site, deque[Tensor]] = {site: deque(maxlen=2 * AGES + 1) for site in every}
        shape = (job.samples, job.steps, len(every), AGES)
        self.cache, self.forecast = torch.full(shape, math.nan), torch.full(shape, math.nan)
        self.prune = torch.full((*shape[:3], len(SHARES), AGES), math.nan)
        self.velocities: list[Tensor] = []
        self.velocity = torch.full((job.samples, job.steps, ORDERS, STEP_AGES), math.inf)
        if sites is not None:
            self.only(sites)

    def only(self, sites: frozenset[Site]) -> None:
        """See :meth:`Probe.only`."""
        self.sites = {site: number for site, number in self.sites.items() if site in sites}
        self.past = {site: self.past[site] for site in self.sites}

    @property
    def cache_bytes(self) -> int:
        """Memory of the outputs kept."""
        return sum(tensor.nbytes for kept in self.past.values() for tensor in kept)

    def tables(self) -> dict[str, Tensor]:
        """Cosine errors; where no older output exists (the first steps) the error is 1."""
        found = {"soda.cache": self.cache, "soda.prune": self.prune, "soda.forecast": self.forecast}
        errors = {name: table.nan_to_num(nan=1.0) for name, table in found.items()}
        return {**errors, "soda.velocity": self.velocity}

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """The dense velocity, compared with what could have been forecast."""
        out = super().predict(i, x, call)
        true = combine(out, self.job.guidance_scale).float().cpu()
        self.velocities.append(true)
        self.velocity[:, i] = errors_of(self.velocities, i)
        return out

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam: compute, and measure on the way."""
        if site not in self.sites:
            return super().run(site, branch, x, cond)
        module: Any = branch
        h = module.pre(x, cond)
        delta = self.mixed(site, module, h, cond)
        self._measure(site, module, x, h, delta, cond)
        self.past[site].appendleft(delta)
        return module.add(x, delta, cond)

    def _measure(self, site: Site, module: Any, x: Tensor, h: Tensor, delta: Tensor, cond: Any) -> None:
        i, m, past = len(self.trace) - 1, self.sites[site], self.past[site]
        if not past:
            return
        parts = []
        for share in SHARES:
            columns = choose(score(x, self.select), share, frames=x.shape[1], groups=self.groups)
            spatial = (site.kind, site.axis) == ("attn", "space") and self.keys == "all"
            options: dict[str, Any] = {"kv": h} if spatial else {}
            parts.append((columns, self.mixed(site, module, columns.take(h), cond, **options)))
        for age in range(1, min(AGES, len(past)) + 1):
            old = past[age - 1]
            self.cache[:, i, m, age - 1] = self._error(old, delta)
            for k, (columns, part) in enumerate(parts):
                self.prune[:, i, m, k, age - 1] = self._error(columns.put(old, part), delta)
            # The gap before the anchor: one more than the age, as in a period of that length; less where unknown.
            gap = min(age + 1, len(past) - age)
            ahead = old if gap < 1 else old + (old - past[age + gap - 1]) * (age / gap)
            self.forecast[:, i, m, age - 1] = self._error(ahead, delta)

    def _error(self, served: Tensor, true: Tensor) -> Tensor:
        """1 - cosine over all tokens and channels, the mean over branches; [B] on the CPU."""
        return cosine_error(served, true).view(len(self.job.branches), -1).mean(0).cpu()
