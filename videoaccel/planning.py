"""What a method would do at a setting, without generating: actions by step and place, predicted costs and error.

Shape legend: B samples, N steps, L text tokens.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from videoaccel.action_grid import spread
from videoaccel.actions import COMPUTE, Action, Place
from videoaccel.cache_memory import fit, foretell
from videoaccel.costs import Costs
from videoaccel.denoising import Denoising
from videoaccel.devices import cpu_threads
from videoaccel.mesh_plan import MeshPlan, kept_link, plan_mesh
from videoaccel.models.seam import Site
from videoaccel.parallel.links import Link
from videoaccel.parts import load_pipeline
from videoaccel.pipeline import VideoPipeline
from videoaccel.policy import Policy
from videoaccel.prior import Prior, find_prior
from videoaccel.rank_choice import whole_guidance
from videoaccel.rehearsal import CHANNELS, depends_on_clip, rehearse
from videoaccel.resolve import WorkOrder, resolve
from videoaccel.settings import GenerateSettings
from videoaccel.stages import Listener, StageClock
from videoaccel.text import PromptStates


@dataclass(frozen=True)
class PlanReport:
    """What would be done.

    Attributes:
        method: Name of the method.
        fields: Its configuration.
        asked: Steps that were asked for.
        steps: Actions by place, for every step that runs; what is not named is computed.
        shares: For every step the rows of the network call over all rows.
        blocks: The network's blocks, each with its modules.
        flops: Counted costs.
        ms: Measured costs; None if nothing was measured.
        error: The error that the planner expects, in its own unit; None of a method that plans none.
        adaptive: Whether decisions depend on the clip; the actions, decided on random numbers, then foretell nothing.
        cache_bytes: Most memory that stored values will take.
        prior: Where the calibrated errors are from; None if there are none.
        interpolated: In what the prior was made for something else.
    """

    method: str
    fields: Mapping[str, Any]
    asked: int
    steps: tuple[Mapping[Place, Action], ...]
    shares: tuple[float, ...]
    blocks: Mapping[Site, tuple[Site, ...]]
    flops: Costs
    ms: Costs | None
    error: float | None
    adaptive: bool
    cache_bytes: int = 0
    prior: Path | None = None
    interpolated: tuple[str, ...] = ()

    def ratio(self, costs: Costs) -> float:
        """How many times cheaper than the steps that were asked for, all computed."""
        spent = costs.total(self.steps, self.shares)
        return self.asked * costs.dense / spent if spent else float("inf")

    @property
    def anchors(self) -> list[int]:
        """Steps in which everything is computed."""
        return [
            i
            for i, (step, share) in enumerate(zip(self.steps, self.shares, strict=True))
            if share >= 1 and all(action == COMPUTE for action in step.values())
        ]

    def grid(self) -> list[dict[Site, Action]]:
        """What happens at every module in every step, whoever decided it: the network, a span, a block, itself."""
        rows = zip(self.steps, self.shares, strict=True)
        return [spread(step, self.blocks, share=share) for step, share in rows]

    def summary(self) -> list[str]:
        """What happens in each step, in words."""
        return [_words(step, share) for step, share in zip(self.grid(), self.shares, strict=True)]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        data: dict[str, Any] = {
            "method": self.method,
            "fields": dict(self.fields),
            "steps_asked": self.asked,
            "adaptive": self.adaptive,
            "flops_ratio": None if self.adaptive else round(self.ratio(self.flops), 4),
            "flops_dense": self.asked * self.flops.dense,
            "speedup": None if self.ms is None or self.adaptive else round(self.ratio(self.ms), 4),
            "ms_dense": None if self.ms is None else round(self.asked * self.ms.dense, 3),
            "predicted_error": self.error,
            "anchors": None if self.adaptive else self.anchors,
            "cache_bytes": self.cache_bytes,
            "prior": None if self.prior is None else str(self.prior),
            "prior_interpolated": list(self.interpolated),
        }
        rows = zip(self.steps, self.shares, strict=True)
        data["steps"] = [
            {"rows": share, "actions": {str(place): str(action) for place, action in step.items()}}
            for step, share in rows
            if not self.adaptive
        ]
        return data


def plan(settings: GenerateSettings, *, time: bool = True, listener: Listener | None = None) -> PlanReport:
    """Show what a generation with these settings would do.

    Args:
        settings: Those of the generation; a prompt is not needed.
        time: Measure milliseconds, too, once on this machine.
        listener: Told of the stages ``load``, ``plan`` and ``time``.

    Raises:
        ValueError: No method is named, its prior is missing, or its target cannot be reached.
    """
    order = resolve(settings.model_copy(update={"prompt": settings.prompt or ("a clip",), "samples": 1}))
    if order.policy is None:
        raise ValueError("there is nothing to plan without a method; name one, such as `accel=soda`")
    clock = StageClock(listener, device=str(order.settings.device))
    with cpu_threads(order.settings.threads), torch.inference_mode():
        with clock.stage("load"):
            pipe = load_pipeline(order)
        run = pipe.denoising(pipe.request(policy=order.policy, **_request(order, pipe)))
        with clock.stage("plan"):
            prior = _prior(order, run)
            s = order.settings
            made = _made(order.policy, run, prior, steps=s.steps or 1, cache_memory=s.cache_memory)
        if not time or made.adaptive:
            return made
        with clock.stage("time"):
            return _timed(made, run)


def plan_ranks(
    settings: GenerateSettings, *, link: Link | None = None, time: bool = True, listener: Listener | None = None
) -> MeshPlan:
    """Weigh the ways for ``settings.gpus`` ranks to make one clip; they need not be here.

    Args:
        settings: Those of the generation; a prompt is not needed.
        link: How fast ranks exchange; default what was measured last on this kind of device, if anything was.
        time: Measure milliseconds of one rank, too, once on this machine.
        listener: Told of the stages ``load``, ``plan`` and ``time``.

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
            pipe = load_pipeline(order)
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
    length, width = model.tokens_read(model.config), model.config["caption_channels"]
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


def _prior(order: WorkOrder, run: Denoising) -> Prior | None:
    if not run.setting:
        return None
    if order.settings.prior is None:
        return find_prior(run.setting)
    return Prior.load(order.settings.prior).for_setting(run.setting, foreign=order.settings.allow_foreign_prior)


def _made(policy: Policy, run: Denoising, prior: Prior | None, *, steps: int, cache_memory: int | None) -> PlanReport:
    job, width = run.job(prior=None if prior is None else prior.tables, cache_memory=cache_memory), run.model.width
    frames, _, _ = run.model.token_grid(run.z.shape[2:])
    policy = fit(policy, job, frames=frames, width=width).made_by or policy
    stored = foretell(policy, job, frames=frames, width=width).peak
    # The network that computes nothing is narrower, and what is stored of it is smaller.
    limit = None if cache_memory is None else cache_memory * CHANNELS // width
    session = policy.session(replace(job, cache_memory=limit))
    rehearse(session, job, frames=frames)
    planned = getattr(session, "plan", None)
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
        adaptive=depends_on_clip(session),
        cache_bytes=stored if cache_memory is None else min(stored, cache_memory),
        prior=None if prior is None else prior.path,
        interpolated=() if prior is None else tuple(prior.info.get("interpolated", ())),
    )


def _timed(made: PlanReport, run: Denoising) -> PlanReport:
    return PlanReport(**{**vars(made), "ms": run.costs("ms")})


def _words(step: Mapping[Site, Action], share: float) -> str:
    counts = Counter(str(action) for action in step.values())
    text = (
        next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.most_common())
    )
    return text if share in (0.0, 1.0) else f"{text} ({share:.0%} of the rows)"


def gathered(items: Sequence[str]) -> dict[str, str]:
    """Where each different item stands, in ranges.

    >>> gathered(["a", "a", "b", "a", "a", "a"])
    {'a': '0-1, 3-5', 'b': '2'}
    """
    found: dict[str, list[list[int]]] = {}
    for i, item in enumerate(items):
        runs = found.setdefault(item, [])
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return {
        item: ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
        for item, runs in found.items()
    }
