"""Fitted steps for a ladder of budgets, and what they keep, on clips that were held out, too.

Shape legend: N steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from videoaccel.calibration.anchor_search import best_of, grown, improved
from videoaccel.calibration.fitting import Clips, Fit, follow
from videoaccel.planning.fitted import FIGURES, KINDS, Fitted, evenly, late, to_tables
from videoaccel.planning.plan import UnreachableError
from videoaccel.policies.soda import Soda

RATIOS = (1.1, 1.25, 1.5, 1.75, 2.0, 2.3, 2.5, 3.0, 3.3, 3.75, 4.25, 5.0, 6.0)
"""How many times fewer network calls the budgets have that are fitted."""

HELD_OUT = 4
"""Every so many-th clip is not fitted on."""

Quality = Callable[[Tensor], list[float]]
"""From finished latents [B, ...] to the PSNR of each clip, in dB."""


def ladder(steps: int) -> list[int]:
    """Numbers of network calls that are fitted: as many as a target leaves, so that none of them are given away.

    >>> ladder(30)
    [5, 6, 7, 8, 9, 10, 12, 13, 15, 17, 20, 24, 27, 29]
    """
    return sorted({int(steps / ratio) for ratio in RATIOS} & {*range(1, steps)} | {*range(max(1, steps - 1), steps)})


def parted(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the clips to fit on, and of those to hold out.

    >>> parted(5)
    ([0, 1, 2, 4], [3])
    """
    held = [k for k in range(count) if k % HELD_OUT == HELD_OUT - 1]
    return [k for k in range(count) if k not in held], held


def calls_of(count: int, steps: int, *, search: int = 0) -> int:
    """Network calls that fitting on so many clips takes, at most."""
    fitted, held = (len(part) for part in parted(count))
    budgets = ladder(steps)
    tried = 5 * sum(budgets) + search * sum(calls**2 for calls in budgets)
    return (fitted + held) * steps + fitted * tried + 2 * held * sum(budgets)


@torch.inference_mode()
def fit_steps(
    fitting: Clips,
    held: Clips,
    tables: Mapping[str, Tensor],
    quality: tuple[Quality, Quality],
    *,
    counts: Sequence[int] | None = None,
    search: int = 0,
) -> dict[str, Tensor]:
    """Tables of the ladder's plans.

    Args:
        fitting: Clips to fit on.
        held: Clips to measure the quality on.
        tables: Calibrated ones, of which anchors are made; evenly spaced ones are tried, too, from the first step on
            and to the last, and those of the budget before with more between them.
        quality: Of the clips to fit on, and of those held out; the tables have figures of all, and the kind that
            keeps more of those held out ranks before the other.
        counts: Numbers of network calls; default the ladder's.
        search: Rounds in which anchors are moved, see :func:`improved`.
    """
    steps, fit = fitting.steps, Fit(fitting)
    kept = torch.full((steps, len(KINDS), len(FIGURES)), math.nan)
    unseen = torch.full((steps, len(KINDS)), math.nan)
    found: list[Fitted] = []

    def note(calls: int, kind: int, ends: Tensor, held_out: Tensor) -> None:
        parts = quality[0](ends), quality[1](held_out)
        kept[calls - 1, kind] = _figures([*parts[0], *parts[1]])
        unseen[calls - 1, kind] = sum(parts[1]) / len(parts[1])

    for calls in ladder(steps) if counts is None else counts:
        policy = Soda(anchors=calls, order="taylor")
        candidates = [
            evenly(calls, steps),
            late(calls, steps),
            *(grown(one.anchors, calls, steps) for one in found[-1:]),
        ]
        with suppress(UnreachableError):  # so few calls that no forecast reaches from one to the next
            candidates.append(tuple(policy.network(tables, steps).anchors))
            note(calls, 0, forecast(fitting, policy, tables), forecast(held, policy, tables))
        fitted, ends = fit.along(improved(fit, best_of(fit, candidates), rounds=search))
        found.append(fitted)
        note(calls, 1, ends, follow(held, fitted))
    return to_tables(found, kept, steps=steps, rank=ranked(kept[..., 0], unseen))


def ranked(mean: Tensor, unseen: Tensor) -> Tensor:
    """By what plans are told apart, [N, kinds]: of budgets by all clips, of kinds by those that were held out.

    Args:
        mean: PSNR of all clips, [N, kinds]; NaN where nothing was measured.
        unseen: That of clips that were held out, likewise.
    """
    best = unseen.nan_to_num(-math.inf).argmax(1, keepdim=True)
    top = mean.gather(1, best)
    others = torch.minimum(mean, top - 1e-3)
    return torch.where(torch.arange(mean.shape[1]) == best, mean, others)


def forecast(clips: Clips, policy: Soda, tables: Mapping[str, Tensor]) -> Tensor:
    """Finished latents under Taylor forecasts."""
    latents = []
    for run in clips.runs:
        job = run.job(prior=tables)
        session = policy.session(job, mix=run.layout.mix)
        latents.append(run.denoise(session))
        clips.tick(round(sum(session.shares) * job.samples))
    return torch.cat(latents)


def _figures(psnr: Sequence[float]) -> Tensor:
    values = torch.tensor(psnr, dtype=torch.float64)
    return torch.stack([values.mean(), values.min(), values.std(correction=0)]).float()
