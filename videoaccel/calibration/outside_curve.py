"""What is left of a pipeline's generations at fewer network calls: by forecasts, by outputs held, by fitted steps.

Forecasts are planned from how far they are off, which is not what becomes of a picture: where a network's output bends
early, a line through two outputs does more harm than the last of them held. Nor is the fit that leaves least error on
what it was made of the best one elsewhere. So all are generated and the best is taken, number of calls by number.

Shape legend: N evaluations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from videoaccel.adapters.attach import attach
from videoaccel.adapters.curves import rule_of
from videoaccel.adapters.methods import fewer_steps, schedule_of
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.calibration.outside_fitting import dense_paths, fit
from videoaccel.planning.fitted import FIGURES, HELD, KINDS, PLAIN, Fitted, evenly, held, late, to_tables
from videoaccel.planning.prior import Prior
from videoaccel.policies.fewer_steps import FewerSteps
from videoaccel.policies.soda import Soda

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Times fewer calls at which the quality is measured."""

WAYS = ("forecasts", "held", "fitted evenly", "fitted late", "fitted as planned", "fewer steps")
"""What is generated at each number of calls; fits are of three sets of anchors, the last those of forecasts. The last
way is no plan: it is there to be told."""

HELD_WAY, FIRST_FIT, FEWER = 1, 2, len(WAYS) - 1
"""Where ways that serve combinations of outputs begin, those that are fitted, and the one that is no plan."""

Fits = Mapping[int, Sequence[Fitted]]
"""By number of calls what was fitted, at most as many as there are ways of it."""

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


def fits(
    pipe: Any, prior: Prior, takes: Sequence[Callable[[], Mapping[str, Any]]], tell: Callable[[str, int, int], None]
) -> dict[int, list[Fitted]]:
    """By number of calls, steps fitted on some generations; none where that cannot be done (see docs/diffusers.md).

    Args:
        pipe: The pipeline.
        prior: Measured on it.
        takes: Make the arguments of the generations.
        tell: Told of the stage ``fit``, which counts budgets.
    """
    count, networks = len(prior.tables["levels"]), prior.info["networks"]
    if not takes or len(networks) != 1:
        return {}

    def generate(rule: StepRule, clip: int) -> None:
        with attach(pipe, RuleMaker(lambda: rule), method="soda"):
            pipe(**takes[clip]())

    wanted, found = ladder(count), {}
    tell("fit", 0, len(wanted))
    paths = dense_paths(count, len(takes), generate)
    for done, calls in enumerate(wanted if paths is not None else ()):
        assert paths is not None
        different = dict.fromkeys((evenly(calls, count), late(calls, count), *_planned(prior.tables, calls)))
        made = (fit(anchors, paths, getattr(pipe, networks[0]), generate) for anchors in different)
        if fitted := [one for one in made if one is not None]:
            found[calls] = fitted
        tell("fit", done + 1, len(wanted))
    return found


def _planned(tables: Tables, calls: int) -> list[tuple[int, ...]]:
    """Evaluations that forecasts would have computed; none if so few cannot be had."""
    try:
        steps = schedule_of(Soda(anchors=calls, order="taylor"))(tables, len(tables["levels"]))
    except ValueError:
        return []
    return [tuple(i for i, step in enumerate(steps) if step is None)]


def candidates(tables: Tables, calls: int, *, one_network: bool, fitted: Sequence[Fitted] = ()) -> dict[str, Tables]:
    """By way (see :data:`WAYS`) tables from which its plan of so many calls is made."""
    count = len(tables["levels"])
    found = {WAYS[0]: tables} if _planned(tables, calls) else {}
    if one_network:  # what is held is one network's
        quality = torch.full((count, len(KINDS), len(FIGURES)), math.nan)
        quality[calls - 1, 1] = 0.0  # so that it counts as measured
        for way, plan in zip(WAYS[HELD_WAY:FEWER], (held(calls, count), *fitted), strict=False):
            found[way] = {**tables, **to_tables([plan], quality, steps=count)}
    return found


def drawn(
    pipe: Any,
    prior: Prior,
    known: Mapping[int, Known],
    fitted: Fits,
    tell: Callable[[str, int, int], None],
) -> dict[int, Tensor]:
    """PSNR of generations by number of computed evaluations and by way, [N, ways]; NaN where it was not measured."""
    count = len(prior.tables["levels"])
    wanted = ladder(count)
    found = {number: torch.full((count, len(WAYS)), math.nan) for number in known}
    done, total = 0, len(wanted) * len(known)
    for calls in wanted:
        tell("curve", done, total)
        for way, rules in _rules(prior, calls, fitted.get(calls, ())).items():
            with attach(pipe, rules, method="soda") as fast:
                for number, take in known.items():
                    # Not every pipeline can be asked for fewer steps, or can take so few; that is only told.
                    with suppress(Exception) if way == WAYS[FEWER] else nullcontext():
                        quality = psnr(pixels(pipe(**take.arguments())), take.exact)
                        if len(fast.computed) == calls:
                            found[number][calls - 1, WAYS.index(way)] = quality
        done += len(known)
    tell("curve", total, total)
    return found


def _rules(prior: Prior, calls: int, fitted: Sequence[Fitted]) -> dict[str, Callable[[], StepRule]]:
    """By way what is put on a pipeline."""
    count, networks = len(prior.tables["levels"]), prior.info["networks"]
    one_network = len(set(prior.tables["component"].tolist())) == 1
    found: dict[str, Callable[[], StepRule]] = {}
    for way, tables in candidates(prior.tables, calls, one_network=one_network, fitted=fitted).items():
        plan = Soda(anchors=calls, order="taylor" if way == WAYS[0] else "fitted")
        found[way] = RuleMaker(partial(rule_of, schedule_of(plan), tables, networks))
    return {**found, WAYS[FEWER]: fewer_steps.rules(FewerSteps(share=calls / count))}


def kept_tables(rows: Sequence[Tensor], count: int, fitted: Fits | None = None) -> dict[str, Tensor]:
    """What all generations kept by number of calls, with the best of the plans that hold or are fitted.

    Args:
        rows: [N, ways] each.
        count: N.
        fitted: By number of calls.
    """
    every = torch.stack(list(rows))
    figures = torch.stack([every.mean(0), every.amin(0), every.std(0, correction=0)], -1)
    mean = figures[..., 0]
    second = mean[:, HELD_WAY:FEWER].nan_to_num(-math.inf).argmax(1) + HELD_WAY
    quality = torch.stack([figures[:, 0], figures[torch.arange(count), second]], 1)
    chosen = every[:, torch.arange(count), second]
    plans = [
        fitted[calls][at - FIRST_FIT] if fitted and (at := int(second[calls - 1])) >= FIRST_FIT else held(calls, count)
        for calls in range(1, count + 1)
        if not quality[calls - 1, 1, 0].isnan()
    ]
    best = mean[:, :FEWER].nan_to_num(-math.inf).amax(1)
    return {
        "soda.psnr": torch.where(best.isinf(), math.nan, best),
        **to_tables(plans, quality, steps=count, rank=ranks(torch.stack([every[:, :, 0], chosen], -1))),
        HELD: figures[:, HELD_WAY],
        PLAIN: figures[:, FEWER],
    }


def ranks(kept: Tensor) -> Tensor:
    """By what plans of different numbers of calls are told apart, [N, kinds].

    More calls are worse only if they kept less by more than chance would have it: by the standard error of the mean
    difference to the best plan of fewer calls, clip by clip. Else they rank above it.

    Args:
        kept: PSNR of every clip, [B, N, kinds]; NaN where nothing was measured.
    """
    mean = kept.mean(0)
    found, best = mean.clone(), None
    for row in range(len(mean)):
        kinds = [kind for kind in range(mean.shape[1]) if not mean[row, kind].isnan()]
        if not kinds:
            continue
        kind = max(kinds, key=lambda kind: float(mean[row, kind]))
        here = kept[:, row, kind]
        if best is not None:
            more = here - kept[:, best[0], best[1]]
            chance = float(more.std(correction=0)) / max(1, len(more) - 1) ** 0.5
            if float(more.mean()) < -chance:
                continue
            found[row, kind] = max(float(mean[row, kind]), float(found[best]) + 1e-3)
        best = row, kind
    return found


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
