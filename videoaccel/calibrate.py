"""Measures what methods need to know about a model at a setting, and writes it into a prior.

Every sample is one dense run under each method's probe, then replays: the influence of a module's error on the
velocity, of a velocity's error on the result, and the end-to-end error of serving a stretch of steps.

Shape legend: B samples, N steps, M module sites, G gaps, Z latent channels, T latent frames, h, w latent sizes.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from videoaccel.action_session import ActionSession, Seen
from videoaccel.actions import COMPUTE, REUSE, Action, Place
from videoaccel.denoise import combine
from videoaccel.denoising import Denoising, plain
from videoaccel.models.seam import Site, direct
from videoaccel.policy import Call, Job, Probe, Session, Velocities
from videoaccel.prior import Prior
from videoaccel.registry import policy_class, policy_names

GAPS = 8
"""Longest stretch of served steps whose end-to-end error is measured."""


class SiteInfluence(Probe):
    """How much a module served at age 1 moves the guided velocity, per unit of its cosine error.

    At every ``stride``-th step each site is served alone in a network call of its own; steps between are interpolated.
    """

    def __init__(self, job: Job, *, stride: int = 3) -> None:
        super().__init__(job)
        self.stride = stride
        self.sites = [site for modules in job.blocks.values() for site in modules]
        self.old: dict[Site, Tensor] = {}
        self.new: dict[Site, Tensor] = {}
        self.served: Site | None = None
        self.table = torch.full((job.samples, job.steps, len(self.sites)), float("nan"))

    def tables(self) -> dict[str, Tensor]:
        """``influence.site`` [B, N, M]."""
        return {"influence.site": _fill_steps(self.table)}

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """The dense velocity; on the way each site's influence at a measured step."""
        self.begin(i)
        self.old, self.new = self.new, {}
        velocities = self.network(call)
        if i and (i % self.stride == 0 or i in (1, self.job.steps - 1)):
            dense = combine(velocities, self.job.guidance_scale)
            new = self.new
            for m, site in enumerate(self.sites):
                self.served = site
                moved = combine(self.network(call), self.job.guidance_scale) - dense
                local = (1 - torch.cosine_similarity(self.old[site].flatten(1), new[site].flatten(1))).float()
                local = local.view(len(self.job.branches), -1).mean(0).clamp_min(1e-9)
                self.table[:, i, m] = (moved.square().flatten(1).mean(1) / local).cpu()
            self.served, self.new = None, new
        return velocities

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if site.kind in ("body", "block"):
            return super().run(site, branch, x, cond)
        if site == self.served:
            return branch.add(x, self.old[site], cond)
        delta = self.mix(site, branch, branch.pre(x, cond), cond)
        if self.served is None:
            self.new[site] = delta
        return branch.add(x, delta, cond)


class ServeStretch(ActionSession):
    """Computes its first step, serves the next ones by the trunk's residual, computes the rest."""

    decides_modules = False

    def __init__(self, job: Job, *, served: int) -> None:
        super().__init__(job, spans=[job.trunk])
        self.served = served

    def decide(self, place: Place, seen: Seen) -> Action:
        """See :meth:`ActionSession.decide`."""
        return REUSE if 1 <= self.i <= self.served else COMPUTE

    def keeps(self, place: Place) -> bool:
        """See :meth:`ActionSession.keeps`."""
        return self.i == 0


@torch.inference_mode()
def measure(denoising: Denoising, probes: Sequence[str]) -> dict[str, Tensor]:
    """Tables of some methods' probes, [B, ...] each, from one dense run a probe."""
    found: dict[str, Tensor] = {}
    for name in probes:
        probe = policy_class(name).probe(denoising.job())
        if probe is not None:
            denoising.denoise(probe)
            found |= probe.tables()
    return found


@torch.inference_mode()
def dense_path(denoising: Denoising) -> list[Tensor]:
    """The latent before every step, and the finished one: N + 1 of [B, Z, T, h, w]."""
    path = [denoising.z]

    def remember(i: int, t: Tensor, x: Tensor) -> Tensor:
        path.append(x)
        return x

    plain(denoising, remember)
    return path


@torch.inference_mode()
def stretch_errors(
    denoising: Denoising, path: Sequence[Tensor], *, gaps: int = GAPS, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """``lemica.error`` [B, N, G]: mean absolute change of the result if step i's residual serves the next g steps."""
    steps, batch = len(path) - 1, path[0].shape[0]
    table = torch.full((batch, steps, gaps), float("inf"))
    table[:, :, 0] = 0.0
    for i in range(steps):
        for gap in range(1, gaps):
            if i + gap < steps:
                session = ServeStretch(denoising.job(start=i), served=gap)
                end = denoising.denoise(session, start=i, z=path[i])
                table[:, i, gap] = (end - path[-1]).abs().flatten(1).mean(1).cpu()
            tick()
    return table


@torch.inference_mode()
def step_influence(
    denoising: Denoising, path: Sequence[Tensor], *, stride: int = 2, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """``influence.step`` [B, N]: squared change of the result per squared error of a step's velocity.

    The error tried is that of serving the step with the velocity of the one before.
    """
    steps = len(path) - 1
    table = torch.full((path[0].shape[0], steps), float("nan"))
    moves = [after - before for before, after in itertools.pairwise(path)]
    widths = (denoising.sigmas[:, :-1] - denoising.sigmas[:, 1:]).T
    for i in range(1, steps):
        if i % stride and i not in (1, steps - 1):
            continue
        width = widths[i].view(-1, *[1] * (path[0].ndim - 1))
        before = widths[i - 1].view(-1, *[1] * (path[0].ndim - 1))
        error = moves[i - 1] / before - moves[i] / width  # a velocity's
        start = path[i + 1] + width * error
        end = start
        if i + 1 < steps:
            session = Session(denoising.job(start=i + 1))
            end = denoising.denoise(session, run=direct, start=i + 1, z=start)
        change = (end - path[-1]).square().flatten(1).mean(1)
        table[:, i] = (change / error.square().flatten(1).mean(1).clamp_min(1e-12)).cpu()
        tick()
    return _fill_steps(table[..., None])[..., 0]


def average(found: Sequence[Mapping[str, Tensor]], setting: Mapping[str, Any], info: Mapping[str, Any]) -> Prior:
    """A prior of the tables of several runs, [B, ...] each."""
    names = sorted({name for tables in found for name in tables})
    stacked = {name: torch.cat([tables[name] for tables in found if name in tables]) for name in names}
    return Prior(
        setting,
        {name: table.float().mean(0) for name, table in stacked.items()},
        {name: len(table) for name, table in stacked.items()},
        info,
    )


def default_probes() -> Iterator[str]:
    """Methods that have something to measure."""
    for name in policy_names():
        if policy_class(name).needs:
            yield name


def _fill_steps(table: Tensor) -> Tensor:
    """Fill the steps [B, N, M] that were not measured (NaN) linearly from those that were."""
    known = [i for i in range(table.shape[1]) if not table[:, i].isnan().any()]
    for i in range(table.shape[1]):
        if i in known:
            continue
        low = max((k for k in known if k < i), default=known[0])
        high = min((k for k in known if k > i), default=known[-1])
        weight = 0.0 if low == high else (i - low) / (high - low)
        table[:, i] = torch.lerp(table[:, low], table[:, high], weight)
    return table
