"""What is left of a pipeline's generations at fewer network calls: by plan, and by holding evenly spaced outputs.

Forecasts are planned from how far they are off, which is not what becomes of a picture: where a network's output bends
early, a line through two outputs does more harm than the last of them held. So both are generated and the better is
taken, number of calls by number.

Shape legend: N evaluations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from videoaccel.adapters.attach import attach
from videoaccel.adapters.curves import rule_of
from videoaccel.adapters.methods import schedule_of
from videoaccel.adapters.rule import RuleMaker
from videoaccel.calibration.anchor_search import evenly
from videoaccel.planning.fitted import FIGURES, KINDS, Fitted, to_tables
from videoaccel.planning.prior import Prior
from videoaccel.policies.soda import Soda

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Times fewer calls at which the quality is measured."""

Tables = Mapping[str, Tensor]


class Known(NamedTuple):
    """A generation that can be made again.

    Attributes:
        arguments: Makes the arguments of its call, generators as they were.
        exact: What it returned, see :func:`pixels`.
    """

    arguments: Callable[[], Mapping[str, Any]]
    exact: Tensor


def ladder(count: int) -> list[int]:
    """Numbers of calls that are measured, of so many evaluations: at most those that a ratio leaves.

    >>> ladder(20)
    [5, 6, 8, 10, 13, 16]
    """
    return sorted({max(2, int(count / ratio)) for ratio in RATIOS} & {*range(2, count)})


def held(calls: int, count: int) -> Fitted:
    """Evenly spaced evaluations are computed, and each output is held up to the next.

    >>> held(2, 4)
    Fitted(anchors=(0, 2), weights=((1.0,), (1.0,)))
    """
    anchors = evenly(calls, count)
    ends = (*anchors[1:], count)
    return Fitted(anchors, tuple((1.0,) if end > mark + 1 else () for mark, end in zip(anchors, ends, strict=True)))


def candidates(tables: Tables, calls: int, *, one_network: bool) -> dict[str, Soda]:
    """By kind (see :data:`KINDS`) the plans of so many calls that are measured."""
    count = len(tables["levels"])
    found = {}
    for kind in KINDS[: 1 + one_network]:  # what is held is one network's
        plan = Soda(anchors=calls, order=kind)
        try:
            schedule_of(plan)(tables, count)
        except ValueError:
            continue  # so few cannot be had
        found[kind] = plan
    return found


def drawn(
    pipe: Any, prior: Prior, known: Mapping[int, Known], tell: Callable[[str, int, int], None]
) -> dict[int, Tensor]:
    """PSNR of generations by number of computed evaluations and by kind, [N, kinds]; NaN where it was not measured."""
    count = len(prior.tables["levels"])
    wanted, one = ladder(count), len(set(prior.tables["component"].tolist())) == 1
    nothing = torch.full((count, len(KINDS), len(FIGURES)), math.nan)
    tables = {**prior.tables, **to_tables([held(calls, count) for calls in wanted], nothing + 0, steps=count)}
    tables["soda.fitted.quality"][[calls - 1 for calls in wanted], 1] = 0.0  # so that they count as measured
    found = {number: torch.full((count, len(KINDS)), math.nan) for number in known}
    done, total = 0, len(wanted) * len(known)
    for calls in wanted:
        tell("curve", done, total)
        for kind, plan in candidates(tables, calls, one_network=one).items():
            rules = RuleMaker(lambda plan=plan: rule_of(schedule_of(plan), tables, prior.info["networks"]))  # type: ignore[misc]
            with attach(pipe, rules, method="soda") as fast:
                for number, take in known.items():
                    quality = psnr(pixels(pipe(**take.arguments())), take.exact)
                    if len(fast.computed) == calls:
                        found[number][calls - 1, KINDS.index(kind)] = quality
        done += len(known)
    tell("curve", total, total)
    return found


def kept_tables(rows: Sequence[Tensor], count: int) -> dict[str, Tensor]:
    """Of all generations: the mean of the better kind by number of calls, and what both kept with the plans that hold.

    Args:
        rows: [N, kinds] each.
        count: N.
    """
    every = torch.stack(list(rows))
    quality = torch.stack([every.mean(0), every.amin(0), every.std(0, correction=0)], -1)
    measured = [at + 1 for at in range(count) if not quality[at, 1, 0].isnan()]
    best = quality[:, :, 0].nan_to_num(-math.inf).amax(1)
    return {
        "soda.psnr": torch.where(best.isinf(), math.nan, best),
        **to_tables([held(calls, count) for calls in measured], quality, steps=count),
    }


def pixels(output: Any) -> Tensor:
    """What a pipeline returned, as numbers: pictures and frames in [0, 1], latents and sound as they are."""
    values = [output] if isinstance(output, Tensor | np.ndarray) else list(_parts(output))
    flat = [part.reshape(-1) for value in values for part in _tensors(value)]
    if not flat:
        raise ValueError(f"{type(output).__name__} holds no pictures, frames, sound or latents to compare")
    return torch.cat(flat)


def _parts(output: Any) -> Sequence[Any]:
    if hasattr(output, "values") and callable(output.values):
        return list(output.values())
    return output if isinstance(output, tuple | list) else [output]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().float().cpu()]
    if isinstance(value, np.ndarray):
        return [torch.from_numpy(np.asarray(value, dtype=np.float32))]
    if isinstance(value, list | tuple):
        return [part for item in value for part in _tensors(item)]
    if hasattr(value, "convert"):  # a picture of PIL
        return [torch.from_numpy(np.asarray(value, dtype=np.float32) / 255)]
    return []


def psnr(made_now: Tensor, exact: Tensor) -> float:
    """Decibels; the peak is 1 of pictures, else the range of the exact values."""
    inside = float(exact.min()) >= 0 and float(exact.max()) <= 1
    peak = 1.0 if inside else float(exact.max() - exact.min())
    error = float((made_now - exact).square().mean())
    return 10 * math.log10(peak**2 / max(error, 1e-12))
