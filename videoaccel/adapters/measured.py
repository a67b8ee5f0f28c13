"""What one dense generation of a pipeline tells about forecasts: the tables that methods plan with.

Shape legend: B samples, N evaluations, O orders, A ages, G gaps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from videoaccel.adapters.guidance_fit import Fit, steady
from videoaccel.planning.forecast_errors import AGES, ORDERS, errors_of

SHARED = ("levels", "component")
"""Tables that say where evaluations are, and are no averages."""


@dataclass
class Measured:
    """One segment, computed whole.

    Attributes:
        levels: Noise levels of its evaluations where the scheduler has them, else timesteps.
        components: The network of each.
        values: What the scheduler was given after each, [B, ...] float32 on the CPU; several where it steps several
            latents (pictures and sound).
        fits: How it is made of the networks' outputs, where that could be told.
        changes: Relative changes from one evaluation to the next by table, NaN where there is nothing to compare with;
            empty if nobody looked inside.
    """

    levels: tuple[float, ...] = ()
    components: list[str] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)
    fits: list[Fit | None] = field(default_factory=list)
    changes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every evaluation was seen, each with as many steps and values of one shape."""
        shapes = {tuple(value.shape for value in values) for values in self.values}
        return len(self.values) == len(self.components) == len(self.levels) > 1 and len(shapes) == 1

    def tables(self) -> dict[str, Tensor]:
        """Errors of forecasts and how the values change, by evaluation.

        ``soda.velocity`` [N, O, A]: squared errors of forecasts; infinite from one network to another.
        ``lemica.error`` [N, G]: what holding one value makes of the latents, squared, per gap.
        ``magcache.ratio`` [N]: magnitude against that of the evaluation before.
        ``teacache.probe``, ``teacache.output``, ``adacache.distance`` [N]: relative changes of signals and of outputs,
        if blocks were listened to; the first repeats the second.
        ``levels`` [N] and ``component`` [N]: where evaluations are, and the number of the network.
        """
        names = list(dict.fromkeys(self.components))
        count = len(self.components)
        velocity = torch.full((count, ORDERS, AGES), torch.inf)
        held = torch.full((count, AGES + 1), torch.inf)
        ratio = torch.ones(count)
        series = [list(one) for one in zip(*self.values, strict=True)]
        shares = _shares(series)
        mixed = self._mixed()
        for start, end in _runs(self.components):
            own = [values[start:end] for values in series]
            parts = [_velocity(values) * share for values, share in zip(own, shares, strict=True)]
            velocity[start:end] = sum(parts) if mixed is None else _velocity_of(mixed, start, end)
            levels = self.levels[start : end + 1]
            held[start:end] = sum(_held(values, levels) * share for values, share in zip(own, shares, strict=True))
            ratio[start:end] = _ratios(own[0])
        numbers = torch.tensor([float(names.index(name)) for name in self.components])
        return {
            "soda.velocity": velocity,
            "lemica.error": held,
            "magcache.ratio": ratio,
            "levels": torch.tensor(self.levels, dtype=torch.float32),
            "component": numbers,
            **{name: _by_evaluation(told) for name, told in self.changes.items() if len(told) == count},
        }

    def _mixed(self) -> "list[tuple[Tensor, Tensor]] | None":
        """Terms [K, P] and weights [K] of every evaluation where guidance changes on the way; else None.

        A forecast of the value is then not made of the terms' forecasts with one evaluation's weights, so errors have
        to be taken of the terms.
        """
        if steady(self.fits) or any(one is None or not one.holds for one in self.fits):
            return None
        pairs = [(one.sample, torch.tensor(one.weights)) for one in self.fits if one is not None]
        return pairs if len({sample.shape for sample, _ in pairs}) == 1 else None


def averaged(tables: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over generations with the same course.

    Raises:
        ValueError: Their courses differ.
    """
    first = tables[0]
    for other in tables[1:]:
        for name in SHARED:
            if first[name].shape != other[name].shape or not torch.allclose(first[name], other[name], rtol=1e-4):
                raise ValueError("the generations took different courses (steps, strength, schedule) and have no mean")
    common = [name for name in first if all(name in other for other in tables)]
    return {name: first[name] if name in SHARED else torch.stack([t[name] for t in tables]).mean(0) for name in common}


def _by_evaluation(changes: Sequence[float]) -> Tensor:
    return torch.tensor([changes[1], *changes[1:]], dtype=torch.float32)


def _runs(components: Sequence[str]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of evaluations by one network."""
    found, start = [], 0
    for _, group in groupby(components):
        end = start + len(list(group))
        found.append((start, end))
        start = end
    return found


def _shares(series: Sequence[Sequence[Tensor]]) -> list[float]:
    """What each of several latents counts: by its energy; a single one counts as it is."""
    if len(series) == 1:
        return [1.0]
    return [
        1 / float(torch.stack([value.square().mean() for value in values]).mean().clamp(min=1e-12)) for values in series
    ]


def _velocity(values: Sequence[Tensor]) -> Tensor:
    """[N', O, A] of one network's stretch, the mean over samples."""
    return torch.stack([errors_of(values, i).mean(0) for i in range(len(values))])


def _velocity_of(mixed: Sequence[tuple[Tensor, Tensor]], start: int, end: int) -> Tensor:
    """[N', O, A] of terms, each evaluation with its own weights, over the positions that were looked at."""
    found = []
    for i in range(start, end):
        weights = mixed[i][1]
        values = [(weights[:, None] * mixed[k][0]).sum(0)[None] for k in range(start, i + 1)]
        found.append(errors_of(values, i - start).mean(0))
    return torch.stack(found)


def _held(values: Sequence[Tensor], levels: Sequence[float]) -> Tensor:
    """[N', G]: the squared change of the latent, to first order, by holding a value for g more evaluations.

    The latent moves by the value times the distance of noise levels; as LeMiCa's graph (arXiv 2511.00090), but read
    off one run instead of replayed.
    """
    count = len(values)
    found = torch.full((count, AGES + 1), torch.inf)
    ends = [*levels, 0.0][: count + 1]
    for i in range(count):
        total = torch.zeros_like(values[i])
        for gap in range(min(AGES + 1, count - i)):
            k = i + gap
            if gap:
                total = total + (values[i] - values[k]) * (ends[k] - ends[k + 1])
            found[i, gap] = total.square().mean()
    return found


def _ratios(values: Sequence[Tensor]) -> Tensor:
    """[N']: mean norm of each value over that of the one before."""
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in values])
    ratios = torch.ones(len(values))
    ratios[1:] = (norms[1:] / norms[:-1].clamp(min=1e-12)).mean(1)
    return ratios
