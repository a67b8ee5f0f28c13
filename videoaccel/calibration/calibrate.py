"""The job of calibrating: settings in, a prior out.

A run that is stopped goes on where it was; runs of several machines add up
(:func:`videoaccel.calibration.files.merge_files`).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videoaccel.calibration import quality_curve
from videoaccel.calibration.files import check_output, output_path, own_shelf
from videoaccel.calibration.outside import calibrate_pipeline
from videoaccel.calibration.pipeline_job import calibrate_model, told
from videoaccel.calibration.probing import default_methods
from videoaccel.calibration.run import Measuring, Note, Run
from videoaccel.common.alone import alone, check_alone
from videoaccel.common.devices import cpu_threads, free_memory
from videoaccel.common.home import expand
from videoaccel.common.stages import Listener, StageClock
from videoaccel.eval.world import sample_scene
from videoaccel.generation.loading import find_model, transformer_class
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.jobs.parts import encode_texts, known_classes, load_pipeline
from videoaccel.jobs.ranks import started
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.outside.find import find_outside
from videoaccel.parallel.mesh import ranks_here
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.session.registry import policy_class
from videoaccel.settings.calibrate import PROMPTS, CalibrateSettings
from videoaccel.settings.generate import GenerateSettings

CURVE_SAMPLES = 4
"""Samples, at least, of which the speed-quality curve is an average, if there are so many: cheap beside replays."""

FIT_SAMPLES = 8, 12
"""Samples, at least and at most, on which steps are fitted unless others are asked for: fewer say too little of clips
that are held out, and so many take half of what replays of two samples do."""


def calibrate(
    settings: CalibrateSettings | Any,
    calls: Sequence[Mapping[str, Any]] | None = None,
    *,
    out: str | Path | None = None,
    curve: int | None = None,
    fit: int | None = None,
    listener: Listener | None = None,
    note: Note = lambda text: None,
) -> Prior:
    """Measure a model at a setting, or a pipeline of diffusers at some calls, and write the prior.

    Args:
        settings: What to measure; or a pipeline that is not ours, of which :func:`calibrate_pipeline` tells the rest.
        calls: Arguments of that pipeline's call, one generation each.
        out: File for that pipeline's prior.
        curve: On how many of those calls the quality that is left is measured.
        fit: On how many of the others SODA's served steps are fitted; default up to 16, if there are 4.
        listener: Told how far the work is.
        note: Told in a sentence where it goes on.

    Raises:
        ValueError: Settings, calls or files do not fit; says which.
        FileNotFoundError: The output's folder is not there, or `backbones` lacks LPIPS' network.
    """
    if isinstance(settings, CalibrateSettings):
        if calls is not None or out is not None:
            raise ValueError("calls and out are for pipelines of diffusers; settings say their own")
        if (found := find_outside(GenerateSettings(model=settings.model))) is not None:
            return calibrate_model(told(settings, found), found, samples=settings.samples, out=settings.output,
                                   curve=curve, fit=settings.fit_samples, listener=listener)  # fmt: skip
        return calibrate_settings(settings, listener=listener, note=note)
    if calls is None:
        raise ValueError("a pipeline is measured at calls, such as calls=[{'prompt': 'a cat'}, {'prompt': 'a dog'}]")
    return calibrate_pipeline(settings, calls, out=out, curve=curve, fit=fit, listener=listener)


def calibrate_settings(
    settings: CalibrateSettings, *, listener: Listener | None = None, note: Note = lambda text: None
) -> Prior:
    """Measure a model at a setting, and write the prior.

    After every sample what was measured so far is stored beside the output, ``OUTPUT.part.safetensors``; the same call
    goes on from there. A finished prior is extended where more samples are asked for. Several ranks, all of which call
    this with the same settings, deal out the samples and store what they have in files of their own; the first adds
    them up.

    Args:
        settings: What to measure.
        listener: Told how far the work is: stages ``text``, ``load``, ``measure``, ``curve`` and ``fit``; the last
            three count network calls.
        note: Told in a sentence where it goes on.

    Returns:
        The prior; its ``path`` says where it is.

    Raises:
        ValueError: Settings or files do not fit; says which.
        FileNotFoundError: The output's folder is not there, or `backbones` lacks LPIPS' network.
        FileExistsError: The output is of another setting, or another process is at work on it.
    """
    methods = chosen_methods(settings.methods)
    prompts = settings.prompts or builtin_prompts(settings.model)
    fitted = samples_to_fit(settings)
    numbers = range(settings.first, settings.first + max(settings.samples, fitted))
    texts, seeds = [prompts[k % len(prompts)] for k in numbers], [settings.seed + k for k in numbers]
    generation = settings.generation(texts, seeds=seeds)
    if (ranks := ranks_here()) > 1:  # a sample each, so that a probe sees all of a network
        generation = generation.model_copy(update={"dp": ranks, "cfg_parallel": 1, "sp": 1})
    order = resolve(generation)
    if (order.settings.steps or 0) < 3:
        raise ValueError(f"`steps` must be at least 3 to calibrate, got {order.settings.steps}")
    if "soda" in methods and not quality_curve.available():
        note("no step is fitted, and no speed-quality curve measured: " + quality_curve.LACKING)
    with started(order) as mesh, cpu_threads(order.settings.threads), torch.inference_mode():
        clock = StageClock(listener if mesh.first else None, device=str(order.settings.device))
        if mesh.first:
            _check_output(settings, order, methods)
        lpips = quality_curve.find_lpips(settings.backbones)
        with clock.stage("text"):
            states = mesh.everyone.same(encode_texts(order) if mesh.first else None)
        with clock.stage("load"):
            pipe = load_pipeline(order)
        setting = setting_of_order(order, pipe)
        out = output_path(settings, order, setting, methods)
        memory = settings.memory or free_memory(str(order.settings.device)) // 2
        told = clock.listener, note if mesh.first else (lambda text: None)
        run = Run(order, pipe, states, Measuring(methods, memory), setting, out, *told, mesh, lpips)
        every = [batch[0] for batch in order.batches]
        samples = every[: settings.samples]
        with alone(out) if mesh.first else nullcontext():
            prior = run.measure(samples, replays=settings.replay_samples)
            prior = run.draw_curve(prior, samples[: max(settings.replay_samples, CURVE_SAMPLES)])
            if settings.fit_samples is not None or fitted > len(prior.info.get("fitted", ())):
                prior = run.fit(prior, every[:fitted], search=settings.fit_search)
            return run.finish(prior)


def _check_output(settings: CalibrateSettings, order: WorkOrder, methods: Sequence[str]) -> None:
    """Make sure that the prior can be written where it goes, before the text is encoded and the network loaded.

    Raises:
        ValueError: Something else is there.
        OSError: It cannot be written, or was begun for something else.
    """
    if settings.output is None:
        own_shelf()
        return
    s = order.settings
    known = {"steps": s.steps, "size": [order.height, order.width], "frames": s.frames, "guidance": s.guidance}
    check_output(expand(settings.output), {**known, "dtype": s.dtype}, methods)
    check_alone(expand(settings.output))


def samples_to_fit(settings: CalibrateSettings) -> int:
    """On how many samples steps are fitted; 0 for none.

    >>> samples_to_fit(CalibrateSettings(samples=10)), samples_to_fit(CalibrateSettings(samples=7))
    (10, 0)
    """
    if settings.fit_samples is not None:
        return settings.fit_samples
    least, most = FIT_SAMPLES
    return min(settings.samples, most) if settings.samples >= least else 0


def chosen_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The methods to measure for, all if none is named.

    Raises:
        ValueError: There is no such method, or it needs no calibration.
    """
    known = list(default_methods())
    for name in names:
        if not policy_class(name).needs:
            raise ValueError(f"{name} needs no calibration; those that do are {', '.join(known)}")
    return tuple(sorted(set(names) or known))


def builtin_prompts(model: str) -> tuple[str, ...]:
    """Prompts of the demo model from the words that it was trained on, classes all over, of others the neutral list."""
    if model != "demo":
        source = find_model(model)
        return known_classes(source) if transformer_class(source).reads_classes else PROMPTS
    rng = np.random.default_rng(2603)
    return tuple(sample_scene(rng, held_out=False).sentence() for _ in range(100))


def setting_of_order(order: WorkOrder, pipe: VideoPipeline) -> dict[str, Any]:
    """What a prior for this work must have been made for."""
    s = order.settings
    assert s.steps is not None and isinstance(s.frames, int) and s.guidance is not None
    size = (order.height, order.width)
    return setting_of(pipe.transformer, pipe.scheduler, steps=s.steps, size=size, frames=s.frames, guidance=s.guidance)
