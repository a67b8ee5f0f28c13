"""What a method would do at a setting, without generating: actions by step and place, predicted costs and error.

Shape legend: B samples, N steps, L text tokens.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from videoaccel.common.devices import cpu_threads
from videoaccel.common.stages import Listener, StageClock
from videoaccel.generation.cache_memory import fit_here, foretell
from videoaccel.generation.maker import naming_the_nearest
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising
from videoaccel.generation.rank_choice import whole_guidance
from videoaccel.generation.rehearsal import CHANNELS, depends_on_clip, rehearse
from videoaccel.jobs.parts import load_pipeline
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.jobs.tables import beside_model
from videoaccel.parallel.links import Link
from videoaccel.planning.plan_report import PlanReport
from videoaccel.planning.prior import Prior
from videoaccel.planning.shelf import find_prior
from videoaccel.preview.mesh_plan import MeshPlan, kept_link, plan_mesh
from videoaccel.session.policy import Policy
from videoaccel.settings.generate import GenerateSettings
from videoaccel.text.encoder import PromptStates


def plan(
    settings: GenerateSettings,
    *,
    time: bool = True,
    listener: Listener | None = None,
    pipe: VideoPipeline | None = None,
) -> PlanReport:
    """Show what a generation with these settings would do.

    On a GPU a method takes the form that the memory which is free now leaves it, as a generation's does.

    Args:
        settings: Those of the generation; a prompt is not needed.
        time: Measure milliseconds, too, once on this machine.
        listener: Told of the stages ``load``, ``plan`` and ``time``.
        pipe: The model, if it is loaded already, see :func:`load`.

    Raises:
        ValueError: No method is named, its prior is missing, or its target cannot be reached.
    """
    order = resolve(settings.model_copy(update={"prompt": settings.prompt or ("a clip",), "samples": 1}))
    if order.policy is None:
        raise ValueError("there is nothing to plan without a method; name one, such as `accel=soda`")
    clock = StageClock(listener, device=str(order.settings.device))
    with cpu_threads(order.settings.threads), torch.inference_mode():
        with clock.stage("load"):
            pipe = pipe or load_pipeline(order)
        run = pipe.denoising(pipe.request(policy=order.policy, **_request(order, pipe)))
        with clock.stage("plan"):
            prior = _prior(order, run)
            s = order.settings
            with _naming(order, run, prior):
                made = _made(order, order.policy, run, prior, steps=s.steps or 1)
        if not time or made.adaptive:
            return made
        with clock.stage("time"):
            return _timed(made, run)


def load(settings: GenerateSettings, *, listener: Listener | None = None) -> VideoPipeline:
    """The model of these settings, for several plans."""
    alone = {"gpus": None, "dp": None, "cfg_parallel": None, "sp": None, "prompt": settings.prompt or ("a clip",)}
    order = resolve(settings.model_copy(update=alone))
    with StageClock(listener, device=str(order.settings.device)).stage("load"):
        return load_pipeline(order)


def check_method(order: WorkOrder, pipe: VideoPipeline, *, listener: Listener | None = None) -> None:
    """Make sure that an order's method can make a session of it.

    Args:
        order: Resolved.
        pipe: Its model.
        listener: Told of the stage ``plan``.

    Raises:
        ValueError: There are too few steps, no prior or no routers, or its target cannot be reached.
    """
    if order.policy is None:
        return
    clock = StageClock(listener, device=str(order.settings.device))
    with cpu_threads(order.settings.threads), torch.inference_mode(), clock.stage("plan"):
        run = pipe.denoising(pipe.request(policy=order.policy, **_request(order, pipe)))
        prior = _prior(order, run)
        job = run.job(prior=None if prior is None else prior.tables, cache_memory=order.settings.cache_memory)
        frames, _, _ = run.model.token_grid(run.z.shape[2:])
        with _naming(order, run, prior):
            fit_here(order.policy, job, **_here(order, run), frames=frames, width=run.model.width)


def plan_ranks(
    settings: GenerateSettings,
    *,
    link: Link | None = None,
    time: bool = True,
    listener: Listener | None = None,
    pipe: VideoPipeline | None = None,
) -> MeshPlan:
    """Weigh the ways for ``settings.gpus`` ranks to make one clip; they need not be here.

    Args:
        settings: Those of the generation; a prompt is not needed.
        link: How fast ranks exchange; default what was measured last on this kind of device, if anything was.
        time: Measure milliseconds of one rank, too, once on this machine.
        listener: Told of the stages ``load``, ``plan`` and ``time``.
        pipe: The model, if it is loaded already, see :func:`load`.

    Raises:
        ValueError: Settings do not fit, or there is one rank only.
    """
    ranks = settings.gpus or 1
    if ranks == 1:
        raise ValueError("one rank has nothing to share; give `gpus` of at least 2")
    alone = {"gpus": None, "dp": None, "cfg_parallel": None, "sp": None}
    order = resolve(settings.model_copy(update={"prompt": settings.prompt or ("a clip",), "samples": 1, **alone}))
    device, policy = str(order.settings.device), order.policy
    clock = StageClock(listener, device=device)
    with cpu_threads(order.settings.threads), torch.inference_mode():
        with clock.stage("load"):
            pipe = pipe or load_pipeline(order)
        run = pipe.denoising(pipe.request(**_request(order, pipe)))
        with clock.stage("time" if time else "plan"):
            costs = run.costs("ms" if time else "flops")
        return plan_mesh(
            run,
            ranks,
            costs=costs,
            link=link or kept_link(device),
            groups=None if policy is None else policy.column_groups,
            whole=whole_guidance(order.settings, policy),
        )


def _request(order: WorkOrder, pipe: VideoPipeline) -> dict[str, Any]:
    """A request whose text is empty but as long as any: neither plans nor costs look at it."""
    model, s = pipe.transformer, order.settings
    length, width = model.tokens_read(model.config), model.text_width
    empty = PromptStates(torch.zeros(1, 1, length, width), torch.ones(1, length, dtype=torch.long), (0,))
    return {
        "prompt_states": [empty],
        "empty_prompt_states": empty,
        "height": order.height,
        "width": order.width,
        "num_frames": s.frames,
        "fps": s.fps,
        "num_inference_steps": s.steps,
        "guidance_scale": s.guidance,
        "num_videos_per_prompt": s.batch_size,
        "seed": s.seed,
    }


def _naming(order: WorkOrder, run: Denoising, prior: Prior | None) -> AbstractContextManager[None]:
    """Of missing tables, say which prior there is instead, also of the one that lies beside the model."""
    lies = "" if prior is not None else beside_model(order.settings.model, run.setting)
    return naming_the_nearest(run.setting, found=prior is not None, also=lies)


def _prior(order: WorkOrder, run: Denoising) -> Prior | None:
    if not run.setting:
        return None
    if order.settings.prior is None:
        return find_prior(run.setting, foreign=order.settings.allow_foreign_prior)
    return Prior.load(order.settings.prior).for_setting(run.setting, foreign=order.settings.allow_foreign_prior)


def _here(order: WorkOrder, run: Denoising) -> dict[str, Any]:
    """What memory there is depends on: where the generation would run, and whether on one rank."""
    return {"device": run.z.device, "alone": order.degrees.clip == 1}


def _made(order: WorkOrder, policy: Policy, run: Denoising, prior: Prior | None, *, steps: int) -> PlanReport:
    asked, width = order.settings.cache_memory, run.model.width
    job = run.job(prior=None if prior is None else prior.tables, cache_memory=asked)
    frames, _, _ = run.model.token_grid(run.z.shape[2:])
    fitting, cache_memory = fit_here(policy, job, **_here(order, run), frames=frames, width=width)
    policy = fitting.made_by or policy
    stored = foretell(policy, job, frames=frames, width=width).peak
    # The network that computes nothing is narrower, and what is stored of it is smaller.
    limit = None if cache_memory is None else cache_memory * CHANNELS // width
    session = policy.session(replace(job, cache_memory=limit))
    rehearse(session, job, frames=frames)
    planned = getattr(session, "plan", None)
    told = None if prior is None or prior.info.get("interpolated") else planned
    return PlanReport(
        method=policy.name,
        fields=policy.model_dump(mode="json"),
        asked=steps,
        steps=tuple(session.trace),
        shares=tuple(session.shares),
        blocks=run.model.sites,
        flops=run.costs("flops"),
        ms=None,
        error=None if planned is None else planned.error,
        psnr=None if told is None else told.psnr,
        worst_psnr=None if told is None else told.worst,
        adaptive=depends_on_clip(session),
        cache_bytes=stored if cache_memory is None else min(stored, cache_memory),
        prior=None if prior is None else prior.path,
        interpolated=() if prior is None else tuple(prior.info.get("interpolated", ())),
    )


def _timed(made: PlanReport, run: Denoising) -> PlanReport:
    return PlanReport(**{**vars(made), "ms": run.costs("ms")})
