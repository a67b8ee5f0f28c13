"""Replays of a dense run with one thing changed: what that does to the finished latent.

Shape legend: B samples, N steps, M module sites, G gaps, Z latent channels, T latent frames, h, w latent sizes.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videoaccel.calibration.probing import Tick, every_site, fill_steps, ignore, ticking
from videoaccel.generation.prepared import Denoising
from videoaccel.models.seam import Site, direct
from videoaccel.sampling.guidance import combine
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.cosine import cosine_error
from videoaccel.session.job import Call, Job, Velocities
from videoaccel.session.policy import Session

GAPS = 8
"""Longest stretch of served steps whose end-to-end error is measured, plus one."""

PAIRS = 20
"""Pairs of step and site at which the product of both influences is checked against a replay."""


@dataclass(frozen=True)
class Path:
    """A dense run.

    Attributes:
        latents: Before every step, and the finished one: N + 1 of [B, Z, T, h, w].
        velocities: Guided, of every step.
    """

    latents: Sequence[Tensor]
    velocities: Sequence[Tensor]

    @property
    def end(self) -> Tensor:
        """The finished latent."""
        return self.latents[-1]


class _Recorder(Session):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.velocities: list[Tensor] = []

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        out = super().predict(i, x, call)
        self.velocities.append(combine(out, self.job.guidance_scale))
        return out


@torch.inference_mode()
def dense_path(denoising: Denoising, *, tick: Tick = ignore) -> Path:
    """Run densely and remember all latents and velocities."""
    latents, session, count = [denoising.z], _Recorder(denoising.job()), ticking(tick)

    def remember(i: int, t: Tensor, x: Tensor) -> Tensor:
        latents.append(x)
        return count(i, t, x)

    denoising.denoise(session, run=direct, callback=remember)
    return Path(latents, session.velocities)


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
def stretch_errors(denoising: Denoising, path: Path, *, gaps: int = GAPS, tick: Tick = ignore) -> Tensor:
    """``lemica.error`` [B, N, G]: mean absolute change of the result if step i's residual serves the next g steps."""
    steps, batch = len(path.velocities), path.end.shape[0]
    table = torch.full((batch, steps, gaps), float("inf"))
    table[:, :, 0] = 0.0
    for i, gap in stretches(steps, gaps):
        session = ServeStretch(denoising.job(start=i), served=gap)
        end = denoising.denoise(session, start=i, z=path.latents[i])
        table[:, i, gap] = (end - path.end).abs().flatten(1).mean(1).cpu()
        tick(steps - i - gap)
    return table


def stretches(steps: int, gaps: int = GAPS) -> list[tuple[int, int]]:
    """First step and number of served steps of all stretches that are tried."""
    return [(i, gap) for i in range(steps) for gap in range(1, gaps) if i + gap < steps]


@torch.inference_mode()
def step_influence(denoising: Denoising, path: Path, *, stride: int = 2, tick: Tick = ignore) -> Tensor:
    """``influence.step`` [B, N]: squared change of the result per squared error of a step's velocity.

    The error tried is that of serving the step with the velocity of the one before.
    """
    steps = len(path.velocities)
    table = torch.full((path.end.shape[0], steps), float("nan"))
    for i in influence_steps(steps, stride):
        stale, true = path.velocities[i - 1], path.velocities[i]
        end = denoising.update(i, path.latents[i], stale)
        if i + 1 < steps:
            end = denoising.denoise(Session(denoising.job(start=i + 1)), run=direct, start=i + 1, z=end)
        change = (end - path.end).square().flatten(1).mean(1)
        table[:, i] = (change / (stale - true).square().flatten(1).mean(1).clamp_min(1e-12)).cpu()
        tick(steps - i - 1)
    return fill_steps(table[..., None])[..., 0]


def influence_steps(steps: int, stride: int = 2) -> list[int]:
    """Steps whose influence is measured."""
    return [i for i in range(1, steps) if i % stride == 0 or i in (1, steps - 1)]


class Checked(NamedTuple):
    """What the product of the influences foretold, and what a replay showed."""

    step: int
    site: str
    predicted: float
    measured: float


class ServeOnce(Session):
    """Computes its first step, serves one module from it in the next, computes the rest."""

    def __init__(self, job: Job, *, site: Site) -> None:
        super().__init__(job)
        self.site = site
        self.old: Tensor | None = None
        self.error = float("nan")

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        step = len(self.trace) - 1
        if site != self.site or step > 1:
            return super().run(site, branch, x, cond)
        delta = self.mix(site, branch, branch.pre(x, cond), cond)
        if step == 0:
            self.old = delta
            return branch.add(x, delta, cond)
        assert self.old is not None
        self.error = float(cosine_error(self.old, delta).mean())
        return branch.add(x, self.old, cond)


@torch.inference_mode()
def check_influence(
    denoising: Denoising,
    path: Path,
    tables: Mapping[str, Tensor],
    *,
    pairs: int = PAIRS,
    seed: int = 0,
    tick: Tick = ignore,
) -> list[Checked]:
    """Serve single modules in single steps, and compare the change of the result with what the influences say.

    Args:
        denoising: Of the sample that ``path`` and ``tables`` are of.
        path: Its dense run.
        tables: ``influence.site`` [B, N, M] and ``influence.step`` [B, N].
        pairs: How many pairs of step and site are drawn.
        seed: Of the draw.
        tick: Told of network calls.
    """
    steps, sites = len(path.velocities), every_site(denoising.job())
    found = []
    for i, m in drawn_pairs(steps, len(sites), pairs=pairs, seed=seed):
        session = ServeOnce(denoising.job(start=i - 1), site=sites[m])
        end = denoising.denoise(session, start=i - 1, z=path.latents[i - 1])
        weight = (tables["influence.site"][:, i, m] * tables["influence.step"][:, i]).mean()
        measured = float((end - path.end).square().mean())
        found.append(Checked(i, str(sites[m]), float(weight) * session.error, measured))
        tick(steps - i + 1)
    return found


def drawn_pairs(steps: int, sites: int, *, pairs: int = PAIRS, seed: int = 0) -> list[tuple[int, int]]:
    """Different pairs of step (not the first) and site."""
    every = [(i, m) for i in range(1, steps) for m in range(sites)]
    return random.Random(seed).sample(every, min(pairs, len(every)))


def correlation(checked: Sequence[Sequence[Any]]) -> float | None:
    """Of the logarithms of what was predicted and what was measured; None of fewer than 3 pairs."""
    logs = [(row[2], row[3]) for row in checked if row[2] > 0 and row[3] > 0]
    if len(logs) < 3:
        return None
    return float(torch.corrcoef(torch.tensor(logs, dtype=torch.float64).log().T)[0, 1])
