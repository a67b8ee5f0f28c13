"""Measures what methods need to know about a model at a setting: a dense run under the probe of each.

What takes replays is in :mod:`videoaccel.calibration.replay`. Whoever waits is told of network calls: ``tick(calls)``.

Shape legend: B samples, N steps, M module sites.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.wording import as_bytes
from videoaccel.generation.prepared import Denoising
from videoaccel.models.seam import Site, Work
from videoaccel.planning.prior import Prior
from videoaccel.sampling.guidance import combine
from videoaccel.session.cosine import cosine_error
from videoaccel.session.job import Call, Job, Velocities
from videoaccel.session.policy import Probe
from videoaccel.session.registry import policy_class, policy_names

Tick = Callable[[int], None]


def ignore(calls: int) -> None:
    """Nobody waits."""


class SiteInfluence(Probe):
    """How much a module served at age 1 moves the guided velocity, per unit of its cosine error.

    At every ``stride``-th step each site is served alone in a network call of its own; steps between are interpolated.
    """

    held = 2
    by_site = ("influence.site",)

    def __init__(self, job: Job, *, stride: int = 3, tick: Tick = ignore) -> None:
        super().__init__(job)
        self.stride, self.tick = stride, tick
        self.sites = {site: number for number, site in enumerate(every_site(job))}
        self.old: dict[Site, Tensor] = {}
        self.new: dict[Site, Tensor] = {}
        self.served: Site | None = None
        self.table = torch.full((job.samples, job.steps, len(self.sites)), float("nan"))

    def only(self, sites: frozenset[Site]) -> None:
        """See :meth:`Probe.only`."""
        self.sites = {site: number for site, number in self.sites.items() if site in sites}

    @property
    def cache_bytes(self) -> int:
        """Memory of the outputs kept."""
        return sum(x.nbytes for kept in (self.old, self.new) for x in kept.values())

    def tables(self) -> dict[str, Tensor]:
        """``influence.site`` [B, N, M]; NaN for sites that were not measured."""
        table = self.table.clone()
        index = list(self.sites.values())
        table[:, :, index] = fill_steps(table[:, :, index])
        return {"influence.site": table}

    def measured(self, i: int) -> bool:
        """Whether sites are served in step ``i``."""
        return i > 0 and (i % self.stride == 0 or i in (1, self.job.steps - 1))

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """The dense velocity; on the way each site's influence at a measured step."""
        self.begin(i)
        self.old, self.new = self.new, {}
        velocities = self.network(call)
        if self.measured(i):
            dense = combine(velocities, self.job.guidance_scale)
            for site, m in self.sites.items():
                self.served = site
                moved = combine(self.network(call), self.job.guidance_scale) - dense
                local = cosine_error(self.old[site], self.new[site])
                local = local.view(len(self.job.branches), -1).mean(0).clamp_min(1e-9)
                self.table[:, i, m] = (moved.float().square().flatten(1).mean(1) / local).cpu()
                self.tick(1)
            self.served = None
        return velocities

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if site not in self.sites:
            return super().run(site, branch, x, cond)
        if site == self.served:
            return branch.add(x, self.old[site], cond)
        delta = self.mix(site, branch, branch.pre(x, cond), cond)
        if self.served is None:
            self.new[site] = delta
        return branch.add(x, delta, cond)


def default_methods() -> Iterator[str]:
    """Methods that have something to measure."""
    for name in policy_names():
        if policy_class(name).needs:
            yield name


@torch.inference_mode()
def measure(
    denoising: Denoising, methods: Sequence[str], *, memory: int | None = None, tick: Tick = ignore
) -> dict[str, Tensor]:
    """Tables of some methods' probes, [B, ...] each.

    Args:
        denoising: What is run, densely, once a probe, or several times where ``memory`` is short.
        methods: Names.
        memory: Bytes of module outputs that a probe may keep at once; None for no limit.
        tick: Told of network calls.

    Raises:
        ValueError: One module's outputs alone need more memory.
    """
    found: dict[str, Tensor] = {}
    for name in methods:
        probe = policy_class(name).probe
        if probe(denoising.job()) is not None:
            found |= run_probe(denoising, probe, memory=memory, tick=tick)  # type: ignore[arg-type]
    return found


@torch.inference_mode()
def run_probe(
    denoising: Denoising, make: Callable[[Job], Probe], *, memory: int | None = None, tick: Tick = ignore
) -> dict[str, Tensor]:
    """Tables of one probe, in as many passes as ``memory`` asks for; see :func:`measure`."""
    whole: dict[str, Tensor] = {}
    sites = every_site(denoising.job())
    for group in site_groups(denoising, make(denoising.job()), memory):
        probe = make(denoising.job())
        if probe.held:
            probe.only(frozenset(group))
        denoising.denoise(probe, callback=ticking(tick))
        index = [sites.index(site) for site in group]
        for name, table in probe.tables().items():
            if name in probe.by_site and name in whole:
                whole[name][:, :, index] = table[:, :, index]
            else:
                whole.setdefault(name, table)
    return whole


def site_groups(denoising: Denoising, probe: Probe, memory: int | None) -> list[list[Site]]:
    """The sites that each pass measures, so that what the probe keeps fits into ``memory`` bytes.

    Raises:
        ValueError: One site alone does not fit.
    """
    sites = every_site(denoising.job())
    if memory is None or not probe.held:
        return [sites]
    needed = {site: probe.held * size for site, size in output_bytes(denoising).items()}
    if (most := max(needed.values())) > memory:
        raise ValueError(
            f"one module's outputs alone take {as_bytes(most)}, more than the `memory` of "
            f"{as_bytes(memory)}; give at least that"
        )
    groups: list[list[Site]] = [[]]
    room = memory
    for site in sites:
        if needed[site] > room:
            groups.append([])
            room = memory
        groups[-1].append(site)
        room -= needed[site]
    return groups


@torch.inference_mode()
def output_bytes(denoising: Denoising) -> dict[Site, int]:
    """Size of every module's output, seen in a network call in which no module runs."""
    found: dict[Site, int] = {}

    def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if site.kind in ("body", "block"):
            return branch.compute(x, cond, run)
        found[site] = x.nbytes
        return x

    denoising.once(run)
    return found


def average(found: Sequence[Mapping[str, Tensor]], setting: Mapping[str, Any], info: Mapping[str, Any]) -> Prior:
    """A prior of the tables of several runs, [B, ...] each."""
    names = sorted({name for tables in found for name in tables})
    stacked = {name: torch.cat([tables[name] for tables in found if name in tables]) for name in names}
    means = {name: table.float().mean(0) for name, table in stacked.items()}
    return Prior(setting, means, {name: len(table) for name, table in stacked.items()}, info)


def every_site(job: Job) -> list[Site]:
    """The M module sites, in the order of the tables."""
    return [site for modules in job.blocks.values() for site in modules]


def fill_steps(table: Tensor) -> Tensor:
    """Fill the steps [B, N, M] that were not measured (NaN) linearly from those that were."""
    table = table.clone()
    known = [i for i in range(table.shape[1]) if not table[:, i].isnan().any()]
    for i in range(table.shape[1]):
        if i in known or not known:
            continue
        low = max((k for k in known if k < i), default=known[0])
        high = min((k for k in known if k > i), default=known[-1])
        weight = 0.0 if low == high else (i - low) / (high - low)
        table[:, i] = torch.lerp(table[:, low], table[:, high], weight)
    return table


def ticking(tick: Tick) -> Callable[[int, Tensor, Tensor], Tensor]:
    """A step callback that counts network calls."""

    def callback(i: int, t: Tensor, x: Tensor) -> Tensor:
        tick(1)
        return x

    return callback
