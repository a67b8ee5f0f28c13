"""Runs any setting on any clip, the same way for all: what a comparison measures on.

Only denoising is timed: text is encoded once for all, planning is timed apart, decoding is not part of a run.

Shape legend: Z latent channels, t, h, w latent sizes, T frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from videoaccel.calibration.quality_curve import decoded
from videoaccel.common.stages import StageClock, peak_memory
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import counted
from videoaccel.comparison.clip import Clip, Decided
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.values import EXACT
from videoaccel.generation.attention_kernels import NATIVE
from videoaccel.generation.cache_memory import coarsened
from videoaccel.generation.maker import Maker
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising
from videoaccel.generation.request import Request
from videoaccel.jobs.sidecar import device_name
from videoaccel.media.encoders import Frames
from videoaccel.models.fingerprint import fingerprint
from videoaccel.models.protocols import Transformer
from videoaccel.models.seam import Site, direct
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.planning.shelf import find_prior
from videoaccel.session.action_grid import as_letters
from videoaccel.session.actions import COMPUTE
from videoaccel.session.costs import Costs, Unit
from videoaccel.session.job import Job
from videoaccel.session.policy import Session
from videoaccel.text.encoder import PromptStates


class Made(NamedTuple):
    """One denoising run.

    Attributes:
        latents: float32 [1, Z, t, h, w].
        frames: T of the clip.
        session: What was decided.
        seconds: Denoising alone.
        plan_seconds: Making the session: plans, and on first use costs.
        peak: Most memory in use meanwhile, bytes; None where that cannot be told.
        graph_calls: See :class:`videoaccel.comparison.clip.Run`.
        coarser: See :class:`videoaccel.comparison.clip.Decided`.
    """

    latents: Tensor
    frames: int
    session: Session
    seconds: float
    plan_seconds: float
    peak: int | None
    graph_calls: Mapping[str, Any] | None = None
    coarser: Mapping[str, Any] = MappingProxyType({})


@dataclass
class Bench:
    """Runs any setting on any clip.

    Attributes:
        pipe: The model; its text encoder is not used.
        states: Text states by prompt, one row each.
        options: Arguments of :meth:`VideoPipeline.request` that all clips share.
        prior: Calibrated tables for the methods that need some; None looks for those of the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        warm: Settings that have run in this process.
    """

    pipe: VideoPipeline
    states: Mapping[str, PromptStates]
    options: Mapping[str, Any]
    prior: Prior | None = None
    foreign_prior: bool = False
    warm: set[tuple[str, str]] = field(default_factory=set)
    _costs: dict[Unit, Costs] = field(default_factory=dict)
    _priors: dict[int, Prior | str] = field(default_factory=dict)
    _hashes: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return cast(torch.device, self.pipe.transformer.device)

    @property
    def sites(self) -> Mapping[Site, tuple[Site, ...]]:
        """The network's blocks, each with its modules."""
        return cast(Transformer, self.pipe.transformer).sites

    def maker(self, clip: Clip, setting: Setting) -> Maker:
        """What makes a clip with a setting."""
        request = self.pipe.request(prompt_states=[self.states[clip.prompt]], seed=[clip.seed], **self.options)
        return Maker(
            replace(request, policy=setting.policy, prior=None),
            transformer=self.pipe.transformer,
            vae=self.pipe.vae,
            scheduler=self.pipe.scheduler,
            device=self.device,
            clock=StageClock(device=self.device),
            graphs=self.pipe.graphs,
        )

    @torch.inference_mode()
    def make(self, clip: Clip, setting: Setting) -> Made:
        """Denoise a clip.

        Raises:
            ValueError: The method cannot run here: too few steps, no prior, a target that is out of reach.
        """
        maker = self.maker(clip, setting)
        attention = maker.request.attention
        denoising = maker.denoising(maker.request.references)
        mix = denoising.layout.mix
        job = self._job(denoising, setting, cache_memory=maker.request.cache_memory)
        clock = StageClock(device=self.device)
        with clock.stage("plan"):
            session = Session(job, mix=mix) if setting.policy is None else maker.fitting(setting.policy, job, mix=mix)
        run = direct if setting.policy is None and attention == NATIVE else session.run
        denoising.record(session)  # in no stage: a generation times it apart, too
        told = forget_peak(self.device)
        with clock.stage("denoise"):
            latents = denoising.denoise(session, run=run)
        self.warm.add(setting.key)
        peak = peak_memory(self.device) if told else None
        return Made(
            latents,
            maker.request.num_frames,
            session,
            clock.seconds["denoise"],
            clock.seconds["plan"],
            peak,
            graph_calls=None if maker.graphs is None else maker.graphs.told(),
            coarser={} if setting.policy is None else coarsened(setting.policy, session),
        )

    @torch.inference_mode()
    def decode(self, made: Made) -> Frames:
        """Frames uint8 [T, H, W, 3].

        Raises:
            FloatingPointError: They are not numbers.
        """
        return decoded(self.pipe.vae, made.latents, made.frames)

    def same(self, one: Made, other: Made) -> bool:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return torch.equal(one.latents, other.latents)

    def decided(self, made: Made) -> Decided:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        session = made.session
        changed = any(share != 1 for share in session.shares) or any(
            action != COMPUTE for step in session.trace for action in step.values()
        )
        return Decided(
            steps=session.job.steps,
            flops=self.flops(session),
            changed=changed,
            digest=session.digest(),
            actions=session.counts(),
            cache_bytes=session.peak_bytes,
            grid=as_letters(session.trace, session.shares, self.sites),
            coarser=made.coarser,
        )

    def compared(self, content: Frames, reference: Frames, prompt: str) -> dict[str, Any]:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        from videoaccel.comparison.quality import compare_clips  # torchmetrics is there only with the extra [eval]

        return compare_clips(content, reference, prompt)

    def rates(self, clip: Clip) -> tuple[float, int | None]:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        return float(self.maker(clip, Setting(EXACT)).request.fps), None

    def title(self, name: str, holds: Mapping[str, Any]) -> str:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        height, width = holds["size"]
        return (
            f"{name}: {counted(holds['frames'], 'frame')} of {height}x{width}, {counted(holds['steps'], 'step')}, "
            f"guidance {holds['guidance']:g}, {holds['dtype']}"
        )

    def holds(self, clip: Clip) -> dict[str, Any]:
        """See :class:`videoaccel.comparison.clip.AnyBench`."""
        request = self.maker(clip, Setting(EXACT)).request
        return {
            **self._setting(request, request.steps),
            "vae": fingerprint(self.pipe.vae),
            "fps": request.fps,
            "attention": request.attention,
            **({} if self.device.type == "cpu" else {"graphs": self.pipe.tuned.graphs}),
            "device": hardware(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def flops(self, session: Session) -> float:
        """Operations of all network calls of a run."""
        return self._costs["flops"].total(session.trace, session.shares)

    def why_not(self, setting: Setting, clip: Clip) -> str | None:
        """Why a method cannot run here at all: it needs a prior and there is none; None if it can."""
        policy = setting.policy
        if policy is None or not policy.required:
            return None
        found = self._prior(self.maker(clip, setting))
        if isinstance(found, str):
            return found
        missing = [name for name in policy.required if name not in found.tables]
        return f"the prior has no table {missing[0]}; videoaccel calibrate makes it" if missing else None

    def prior_hash(self, setting: Setting, clip: Clip) -> str:
        """Tells the calibrated tables apart that a setting runs on; empty where it needs none, or has none."""
        if setting.policy is None or not setting.policy.required:
            return ""
        if setting.key not in self._hashes:
            found = self._prior(self.maker(clip, setting))
            self._hashes[setting.key] = "" if isinstance(found, str) else hash_prior(found)
        return self._hashes[setting.key]

    def _job(self, denoising: Denoising, setting: Setting, *, cache_memory: int | None) -> Job:
        def costs(unit: Unit) -> Costs:
            if unit not in self._costs:  # the same network, size and batch in every run
                self._costs[unit] = denoising.costs(unit)
            return self._costs[unit]

        costs("flops")
        tables = None
        if setting.policy is not None and setting.policy.required:
            found = self._priors.get(denoising.job().steps)
            tables = found.tables if isinstance(found, Prior) else None
        return replace(denoising.job(prior=tables, cache_memory=cache_memory), costs=costs)

    def _prior(self, maker: Maker) -> Prior | str:
        """The prior for a request, or why there is none."""
        if maker.steps not in self._priors:
            self._priors[maker.steps] = self._looked_up(self._setting(maker.request, maker.steps))
        return self._priors[maker.steps]

    def _setting(self, request: Request, steps: int) -> dict[str, Any]:
        return setting_of(
            cast(nn.Module, self.pipe.transformer),
            self.pipe.scheduler,
            steps=steps,
            size=(request.height, request.width),
            frames=request.num_frames,
            guidance=request.guidance,
        )

    def _looked_up(self, setting: Mapping[str, Any]) -> Prior | str:
        if self.prior is None:
            found = find_prior(setting)
            return (
                found
                or "it needs a prior, and there is none for this model and setting; videoaccel calibrate makes one"
            )
        try:
            prior = self.prior.for_setting(setting, foreign=self.foreign_prior)
        except ValueError as error:
            return str(error)
        if differences := prior.info.get("interpolated"):
            warn_user(f"a foreign prior is interpolated: it was made for {', '.join(differences)}")
        return prior


def machine(device: torch.device) -> dict[str, Any]:
    """What a table was measured on."""
    return {
        "device": str(device),
        "name": hardware(device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def hardware(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    info = Path("/proc/cpuinfo")
    if device.type == "cuda" or not info.exists():
        return device_name(device)
    names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name"))
    return next(names, platform.machine())


def hash_prior(prior: Prior) -> str:
    """Tells tables apart."""
    digest = hashlib.sha256()
    for name, table in sorted(prior.tables.items()):
        digest.update(name.encode() + table.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def forget_peak(device: torch.device) -> bool:
    """Begin to watch memory anew; False where that cannot be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the largest resident size so far becomes the present one
        return True
    return False
