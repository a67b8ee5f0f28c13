"""The job of calibrating a pipeline of diffusers that stands in a folder: settings in, a prior out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from videoaccel.calibration.outside import calibrate_pipeline, check_fit
from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import check_file
from videoaccel.common.stages import Listener, StageClock
from videoaccel.jobs.ranks import started
from videoaccel.outside.calls import called_with, worded
from videoaccel.outside.find import Found
from videoaccel.outside.loading import load
from videoaccel.outside.order import reads_text, resolve_outside, with_prompt
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import ranks_here
from videoaccel.planning.prior import Prior
from videoaccel.settings.calibrate import PROMPTS, SHARED, CalibrateSettings
from videoaccel.settings.generate import GenerateSettings

ONLY_OURS = ("first", "replay_samples", "fit_search", "methods", "memory", "backbones")
"""What only a calibration of our own models can be told."""


def told(settings: CalibrateSettings, found: Found) -> GenerateSettings:
    """Settings of a calibration as those of the generations that are measured.

    Raises:
        ValueError: Something is told that is for our own models.
    """
    usual = {name: field.get_default() for name, field in CalibrateSettings.model_fields.items()}
    if wrong := [name for name in ONLY_OURS if getattr(settings, name) != usual[name]]:
        raise ValueError(f"`{wrong[0]}` is for calibrating our own models, not a {found.kind}")
    shared = {name: getattr(settings, name) for name in SHARED if getattr(settings, name) is not None}
    prompts = settings.prompts or (PROMPTS if reads_text(found) else ())
    return GenerateSettings(**shared, prompt=prompts, seed=settings.seed)


def calibrate_model(
    settings: GenerateSettings,
    found: Found,
    *,
    samples: int,
    out: str | Path | None = None,
    curve: int | None = None,
    fit: int | None = None,
    listener: Listener | None = None,
) -> Prior:
    """Load a pipeline, measure it, and write the prior.

    Of several ranks, all of which call this with the same settings, each loads it and measures every so many-th sample;
    the first writes what all of them have found.

    Args:
        settings: Those of the generations; sample k has prompt k, after the last one the first again, and seed + k.
        found: The pipeline.
        samples: How many are measured.
        out: The file; default one in the user's cache, where generate looks.
        curve: On how many of them the quality that is left at fewer calls is measured.
        fit: On how many of the others SODA's served steps are fitted, see :func:`calibrate_pipeline`.
        listener: Told of the stages ``load``, ``measure``, ``fit`` and ``curve``; ``fit`` counts budgets, the last one
            and ``measure`` generations of the first rank.

    Returns:
        The prior; its ``path`` says where it is.

    Raises:
        ValueError: Settings do not fit the pipeline, or nothing can be measured on it.
        OSError: The file cannot be written.
    """
    if samples < 1:
        raise ValueError(f"at least one sample has to be measured, got samples={samples}")
    check_fit(fit, of=samples, curve=curve)
    order = resolve_outside(with_prompt(settings, found), found, ranks="side by side")
    s = order.settings
    with started(replace(order, degrees=Degrees(data=ranks_here()))) as mesh, cpu_threads(s.threads), torch.no_grad():
        if out is not None and mesh.first:
            check_file(out)
        told = listener if mesh.first else None
        with StageClock(told, device=str(s.device)).stage("load"):
            pipe = load(found, order.kind, s)
        arguments = order.told(pipe)
        calls = [
            called_with(arguments, s.prompt[k % len(s.prompt)] if s.prompt else None, seed=s.seed + k)
            for k in range(samples)
        ]
        with worded(order.kind.__name__):
            return calibrate_pipeline(pipe, calls, out=out, curve=curve, fit=fit, listener=told, ranks=mesh.everyone)
