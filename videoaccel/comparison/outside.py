"""Runs any setting on any clip of a pipeline of diffusers; the counterpart of ``bench.py``.

Timed is its denoising loop, from its schedulers' first timesteps to their last step: text before it and decoding
behind it are the same whatever the method.

Shape legend: T frames, H, W pixels; C channels and N samples of sound.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from videoaccel.adapters.attach import Attachment, attach, attachment_of, takes_attachments
from videoaccel.adapters.call_costs import CallCosts
from videoaccel.adapters.call_setting import setting_of_call, with_latents
from videoaccel.adapters.loop_clock import LoopClock
from videoaccel.adapters.methods import available, plans, tables_of
from videoaccel.adapters.pipeline_priors import find, fitting
from videoaccel.adapters.report import Report
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.adapters.swap import original
from videoaccel.common.stages import peak_memory
from videoaccel.common.wording import counted
from videoaccel.comparison.bench import forget_peak, hardware, hash_prior
from videoaccel.comparison.clip import Clip, Content, Decided
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.values import ALL
from videoaccel.generation.accelerate import accelerate
from videoaccel.models.fingerprint import fingerprint
from videoaccel.outside.arguments import CLASSES, RESERVED, Arguments, labels_of
from videoaccel.outside.calls import called_with, seeded, worded
from videoaccel.outside.generate import plain_arguments
from videoaccel.outside.order import fps_told
from videoaccel.outside.outputs import sampling_rate, taken
from videoaccel.outside.signature import signature_of, signature_of_blocks
from videoaccel.planning.prior import Prior
from videoaccel.session.policy import Policy


class OutsideMade(NamedTuple):
    """One generation.

    Attributes:
        latents: What the schedulers' last steps returned.
        content: What came out.
        report: Of what the method did; None of a plain run.
        seconds: Of the denoising loop.
        plan_seconds: Of attaching; plans are made in the loop, which has their time.
        peak: Most memory in use meanwhile, bytes; None where that cannot be told.
    """

    latents: list[Tensor]
    content: Content
    report: Report | None
    seconds: float
    plan_seconds: float
    peak: int | None

    @property
    def graph_calls(self) -> None:
        """Nothing is replayed here."""


class _Look(RuleMaker):
    """Computes everything, and remembers for what it was called."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(StepRule)
        self._pipe = pipe
        self.setting: Mapping[str, Any] = {}

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.setting = setting_of_call(self._pipe, arguments)
        return {}

    def sees(self, size: str) -> bool:
        self.setting = with_latents(self.setting, size)
        return False


@dataclass
class OutsideBench:
    """Runs any setting on any clip.

    Attributes:
        pipe: The pipeline, with nothing attached.
        arguments: Of all calls.
        prior: Measured errors for the methods that plan; None looks for those of the pipeline and call.
        foreign_prior: Take a prior that was measured for other arguments of the call.
        warm: Settings that have run in this process.
    """

    pipe: Any
    arguments: Arguments
    prior: Prior | None = None
    foreign_prior: bool = False
    warm: set[tuple[str, str]] = field(default_factory=set)
    _seen: tuple[Report, Mapping[str, Any], CallCosts] | None = None
    _priors: dict[tuple[str, ...], Prior | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = self.arguments.signature.kind
        if not takes_attachments(self.pipe):
            raise ValueError(f"{kind} has no denoiser that is known, so methods cannot be compared on it")
        if attachment_of(self.pipe) is not None:
            raise ValueError(f"the {kind} is accelerated; remove() that first")

    @property
    def device(self) -> torch.device:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return torch.device(self.pipe._execution_device if hasattr(self.pipe, "_execution_device") else "cpu")

    def make(self, clip: Clip, setting: Setting) -> OutsideMade:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        self.look(clip)
        fast: Attachment | None = None
        told = forget_peak(self.device)
        with LoopClock(self.pipe, self.device) as clock, torch.no_grad(), seeded(clip.seed):
            began = time.perf_counter()
            if setting.policy is not None:
                fast = self._attached(setting.policy)
            attached = time.perf_counter() - began
            try:
                result = self.pipe(**self._call(clip))
            finally:
                if fast is not None:
                    fast.remove()
        if clock.seconds is None:
            raise ValueError(f"no scheduler of this {self.arguments.signature.kind} stepped")
        self.warm.add(setting.key)
        peak = peak_memory(self.device) if told else None
        content = _content(result)
        return OutsideMade(
            clock.latents, content, None if fast is None else fast.report(), clock.seconds, attached, peak
        )

    def decode(self, made: OutsideMade) -> Content:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return made.content

    def same(self, one: OutsideMade, other: OutsideMade) -> bool:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return len(one.latents) == len(other.latents) and all(map(torch.equal, one.latents, other.latents))

    def decided(self, made: OutsideMade) -> Decided:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        assert self._seen is not None
        exact, _, costs = self._seen
        report = made.report or exact
        streams = [(one.component, one.context, one.ordinal, one.computed, one.forecast) for one in report.streams]
        computed = set(report.computed)
        letters = ["c" if number in computed else "f" for number in range(report.evaluations)]
        return Decided(
            steps=report.evaluations,
            flops=costs.total(report),
            changed=report.calls_computed < exact.calls,
            digest=hashlib.sha256(repr((report.computed, streams)).encode()).hexdigest()[:16],
            actions={
                "compute": report.calls_computed,
                "forecast": report.calls - report.calls_computed,
                "left": report.calls_left,
            },
            cache_bytes=report.stored_bytes,
            grid={"sites": ["networks"], "steps": letters},
        )

    def compared(self, content: Content, reference: Content, prompt: str) -> dict[str, Any]:
        """See :class:`videoaccel.comparison.clip.AnyBench`; sound has a PSNR alone, of the exact one's range."""
        if content.ndim == 4:
            from videoaccel.comparison.quality import compare_clips  # needs the extra [eval]

            return compare_clips(content, reference, prompt)
        if content.shape != reference.shape:
            raise ValueError("the sound is of another length than the exact one")
        error = float(np.square(content - reference).mean(dtype=np.float64))
        peak = float(reference.max() - reference.min())
        return {"psnr": math.inf if not error else 10 * math.log10(peak**2 / error), "ssim": None, "world": None}

    def why_not(self, setting: Setting, clip: Clip) -> str | None:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        if setting.policy is None:
            return None
        self.look(clip)
        try:
            self._attached(setting.policy).remove()
        except ValueError as error:
            return str(error)
        return None

    def prior_hash(self, setting: Setting, clip: Clip) -> str:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        if setting.policy is None or setting.policy.name not in available() or not plans(setting.policy):
            return ""
        self.look(clip)
        found = self._prior(setting.policy)
        return "" if isinstance(found, str) else hash_prior(found)

    def holds(self, clip: Clip) -> dict[str, Any]:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        import diffusers

        report, setting = self.look(clip)
        vae: Any = getattr(self.pipe, "vae", None)
        return {
            "class": self.arguments.signature.kind,
            **setting,
            "arguments": plain_arguments(self.arguments.values),
            "evaluations": report.evaluations,
            "vae": fingerprint(vae) if isinstance(vae, nn.Module) else None,
            "device": hardware(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }

    def rates(self, clip: Clip) -> tuple[float, int | None]:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return fps_told(self.arguments.values, self.arguments.signature), sampling_rate(self.pipe)

    def title(self, name: str, holds: Mapping[str, Any]) -> str:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        told = {**holds["call"], **{k: v for k, v in holds["arguments"].items() if isinstance(v, bool | int | float)}}
        shown = [f"{key} {told[key]:g}" for key in ("height", "width", "num_frames", "guidance_scale") if key in told]
        dtype = holds["dtype"].replace("torch.", "")
        return ", ".join([f"{name}: {counted(holds['evaluations'], 'evaluation')}", *shown, dtype])

    def look(self, clip: Clip) -> tuple[Report, Mapping[str, Any]]:
        """Run once, watched: what is called, for what setting, and how many operations a call takes."""
        if self._seen is None:
            rules, costs = _Look(self.pipe), CallCosts()
            watched = attach(self.pipe, rules, method="off")
            spoken = worded(self.arguments.signature.kind)
            with spoken, watched, torch.no_grad(), seeded(clip.seed), costs.counted(self.pipe):
                self.pipe(**self._call(clip))
            self._seen = watched.report(), rules.setting, costs
        return self._seen[:2]

    def _attached(self, policy: Policy) -> Attachment:
        fields = {name: getattr(policy, name) for name in policy.model_fields_set}
        if policy.name not in available() or not plans(policy):
            fast: Attachment = accelerate(self.pipe, policy.name, **fields)
            return fast
        if isinstance(found := self._prior(policy), str):
            raise ValueError(found)
        fast = accelerate(
            self.pipe, policy.name, prior=found, foreign_prior=self.foreign_prior, calibrate=False, **fields
        )
        return fast

    def _prior(self, policy: Policy) -> Prior | str:
        """The measured errors for a method, or why there are none."""
        needs = tables_of(policy)
        if needs not in self._priors:
            self._priors[needs] = self._looked_up(needs)
        return self._priors[needs]

    def _looked_up(self, needs: Sequence[str]) -> Prior | str:
        assert self._seen is not None
        setting = self._seen[1]
        if self.prior is None:
            found, _ = find(setting, foreign=self.foreign_prior, needs=needs)
            return found or "it needs a prior, and there is none for this call; videoaccel calibrate makes one"
        try:
            return fitting(self.prior, setting, foreign=self.foreign_prior)
        except ValueError as error:
            return str(error)

    def _call(self, clip: Clip) -> dict[str, Any]:
        return called_with(self.arguments, clip.prompt or None, seed=clip.seed)


def arguments_by_name(pipe: Any, options: Mapping[str, Any]) -> Arguments:
    """The arguments of a pipeline's calls, but for prompts and generators.

    Raises:
        ValueError: It takes no argument of a name, or one is told otherwise.
    """
    modular = hasattr(pipe, "load_components")
    signature = signature_of_blocks(pipe) if modular else signature_of(original(type(pipe)))
    prompt = signature.first(("prompt", CLASSES))
    for name, value in options.items():
        if name in RESERVED or name == prompt:
            raise ValueError(f"{name} is no option of a comparison; prompts, seeds and what is compared say it")
        signature.check(name, value)
    config = getattr(pipe, "config", None) or {}
    return Arguments(dict(options), prompt, signature, labels_of(config))


def had(methods: Sequence[str]) -> list[str]:
    """Methods by name, with those in place of ``all`` that can be had on pipelines of diffusers."""
    return list(dict.fromkeys(name for one in methods for name in (available() if one == ALL else [one])))


def _content(result: Any) -> Content:
    """What a call returned, as files would hold it."""
    found = taken(result)
    content = found.frames if found.frames is not None else found.sound
    if content is None:
        raise ValueError("neither pictures nor sound came out, so there is nothing to compare")
    return content
