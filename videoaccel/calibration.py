"""The job of calibrating: samples measured one by one, and their mean in a file that grows with every one.

A run that is stopped goes on where it was; runs of several machines add up (:func:`merge_files`).

Shape legend: N steps, M module sites.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoaccel import __version__, quality_curve, replay
from videoaccel.calibration_settings import PROMPTS, CalibrateSettings
from videoaccel.denoising import Denoising
from videoaccel.devices import cpu_threads, free_memory
from videoaccel.eval.world import sample_scene
from videoaccel.files import check_creatable
from videoaccel.parallel.mesh import Mesh, ranks_here
from videoaccel.parts import encode_texts, load_pipeline
from videoaccel.pipeline import VideoPipeline
from videoaccel.policies.soda import Soda
from videoaccel.policy import Probe
from videoaccel.prior import PART, Prior, merge, setting_of, shelf
from videoaccel.probing import SiteInfluence, Tick, average, default_methods, every_site, run_probe, site_groups
from videoaccel.ranks import started
from videoaccel.registry import policy_class
from videoaccel.resolve import Sample, WorkOrder, resolve
from videoaccel.stages import Listener, StageClock
from videoaccel.text import PromptStates
from videoaccel.wording import counted

Note = Callable[[str], None]


def calibrate(
    settings: CalibrateSettings, *, listener: Listener | None = None, note: Note = lambda text: None
) -> Prior:
    """Measure a model at a setting, and write the prior.

    After every sample what was measured so far is stored beside the output, ``OUTPUT.part.safetensors``; the same call
    goes on from there. A finished prior is extended where more samples are asked for. Several ranks, all of which call
    this with the same settings, deal out the samples and store what they have in files of their own; the first adds
    them up.

    Args:
        settings: What to measure.
        listener: Told how far the work is: stages ``text``, ``load``, ``measure`` and ``curve``; the last two count
            network calls.
        note: Told in a sentence where it goes on.

    Returns:
        The prior; its ``path`` says where it is.

    Raises:
        ValueError: Settings or files do not fit; says which.
        FileNotFoundError: The output's folder is not there.
    """
    methods = chosen_methods(settings.methods)
    prompts = settings.prompts or builtin_prompts(settings.model)
    numbers = range(settings.first, settings.first + settings.samples)
    texts, seeds = [prompts[k % len(prompts)] for k in numbers], [settings.seed + k for k in numbers]
    generation = settings.generation(texts, seeds=seeds)
    if (ranks := ranks_here()) > 1:  # a sample each, so that a probe sees all of a network
        generation = generation.model_copy(update={"dp": ranks, "cfg_parallel": 1, "sp": 1})
    order = resolve(generation)
    if (order.settings.steps or 0) < 3:
        raise ValueError(f"`steps` must be at least 3 to calibrate, got {order.settings.steps}")
    with started(order) as mesh, cpu_threads(order.settings.threads), torch.inference_mode():
        clock = StageClock(listener if mesh.first else None, device=str(order.settings.device))
        if settings.output is not None and mesh.first:
            check_creatable(settings.output)
        with clock.stage("text"):
            states = mesh.everyone.same(encode_texts(order) if mesh.first else None)
        with clock.stage("load"):
            pipe = load_pipeline(order)
        setting = setting_of_order(order, pipe)
        out = output_path(settings, order, setting, methods)
        memory = settings.memory or free_memory(str(order.settings.device)) // 2
        told = clock.listener, note if mesh.first else (lambda text: None)
        run = _Run(order, pipe, states, _Measuring(methods, memory), setting, out, *told, mesh)
        samples = [batch[0] for batch in order.batches]
        prior = run.measure(samples, replays=settings.replay_samples)
        return run.finish(run.draw_curve(prior, samples[: settings.replay_samples]))


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
    """Prompts of the demo model from the words that it was trained on, of others the neutral list."""
    if model != "demo":
        return PROMPTS
    rng = np.random.default_rng(2603)
    return tuple(sample_scene(rng, held_out=False).sentence() for _ in range(100))


def setting_of_order(order: WorkOrder, pipe: VideoPipeline) -> dict[str, Any]:
    """What a prior for this work must have been made for."""
    s = order.settings
    assert s.steps is not None and isinstance(s.frames, int) and s.guidance is not None
    size = (order.height, order.width)
    return setting_of(pipe.transformer, pipe.scheduler, steps=s.steps, size=size, frames=s.frames, guidance=s.guidance)


def output_path(
    settings: CalibrateSettings, order: WorkOrder, setting: Mapping[str, Any], methods: Sequence[str]
) -> Path:
    """Where the prior goes: as told, or to the user's shelf under a name that says what it is for."""
    if settings.output is not None:
        return Path(settings.output)
    folder = shelf()[0]
    folder.mkdir(parents=True, exist_ok=True)
    s = order.settings
    parts = [
        Path(s.model).name,
        f"{order.height}x{order.width}",
        f"{s.frames}f",
        f"{s.steps}steps",
        f"g{s.guidance:g}",
        str(s.dtype),
        str(setting["model"])[:8],
    ]
    if settings.methods:
        parts.append("+".join(methods))
    return folder / f"{'-'.join(parts)}.safetensors"


def part_path(out: Path) -> Path:
    """Where a prior is while it is being made."""
    return out.with_name(out.name.removesuffix(".safetensors") + PART)


def merge_files(paths: Sequence[str | Path], out: str | Path) -> Prior:
    """Add up what several runs or machines measured.

    Raises:
        ValueError: They were made for different settings, or two contain the same sample.
        FileNotFoundError: One is not there.
    """
    if len(paths) < 2:
        raise ValueError(f"there must be two priors or more to merge, got {len(paths)}")
    check_creatable(out)
    priors = [Prior.load(path) for path in paths]
    seen: dict[str, int] = {}
    for number, prior in enumerate(priors):
        for seed, prompt in prior.info.get("samples", []):
            for table in prior.tables:
                if (other := seen.setdefault(f"{table} {seed} {prompt}", number)) != number:
                    raise ValueError(
                        f"{paths[other]} and {paths[number]} both hold the sample with seed {seed} ({prompt!r}), which "
                        f"would count twice; `first` gives each machine samples of its own"
                    )
    merged = with_correlation(merge(priors))
    merged.save(out)
    return merged


def with_correlation(prior: Prior) -> Prior:
    """Say how well the product of both influences foretells replays."""
    found = replay.correlation(prior.info.get("influence_check", []))
    told = {} if found is None else {"influence_correlation": round(found, 4)}
    return replace(prior, info={**prior.info, **told})


def _counted(listener: Listener | None, stage: str, total: int) -> Tick:
    """Tells a listener of network calls as they are made."""
    done = 0

    def tick(calls: int) -> None:
        nonlocal done
        for _ in range(calls if listener is not None else 0):
            done += 1
            assert listener is not None
            listener(stage, done, total)

    if listener is not None and total:
        listener(stage, 0, total)
    return tick


@dataclass(frozen=True)
class _Measuring:
    """What is measured of a sample."""

    methods: tuple[str, ...]
    memory: int

    @property
    def replayed(self) -> frozenset[str]:
        """Tables that take replays."""
        classes = [policy_class(name) for name in self.methods]
        wanted = {table for found in classes for table in (*found.needs, *found.uses)}
        return frozenset(wanted & {"influence.site", "influence.step", "lemica.error"})

    def probes(self, run: Denoising) -> list[Callable[..., Probe]]:
        """Probes of all methods that have one."""
        found: list[Any] = [policy_class(name).probe for name in self.methods]
        return [probe for probe in found if probe(run.job()) is not None]

    def measure(self, run: Denoising, tick: Tick) -> dict[str, Tensor]:
        """Tables of all probes."""
        tables: dict[str, Tensor] = {}
        for probe in self.probes(run):
            tables |= run_probe(run, probe, memory=self.memory, tick=tick)
        return tables

    def replay(self, run: Denoising, tick: Tick, *, seed: int) -> tuple[dict[str, Tensor], list[replay.Checked]]:
        """Tables that take replays, and what a check of the influences found."""
        if not self.replayed:
            return {}, []
        tables: dict[str, Tensor] = {}
        checked: list[replay.Checked] = []
        path = replay.dense_path(run, tick=tick)
        if "influence.site" in self.replayed:
            tables |= run_probe(run, lambda job: SiteInfluence(job, tick=tick), memory=self.memory, tick=tick)
            tables["influence.step"] = replay.step_influence(run, path, tick=tick)
            checked = replay.check_influence(run, path, tables, seed=seed, tick=tick)
        if "lemica.error" in self.replayed:
            tables["lemica.error"] = replay.stretch_errors(run, path, tick=tick)
        return tables, checked

    def calls(self, run: Denoising) -> tuple[int, int]:
        """Network calls that the probes take, and the replays."""
        job = run.job()
        steps, sites = job.steps, every_site(job)
        probes = sum(steps * len(site_groups(run, probe(job), self.memory)) for probe in self.probes(run))
        replays = steps if self.replayed else 0
        if "influence.site" in self.replayed:
            influence = SiteInfluence(job)
            replays += steps * len(site_groups(run, influence, self.memory))
            replays += len(sites) * sum(influence.measured(i) for i in range(steps))
            replays += sum(steps - i - 1 for i in replay.influence_steps(steps))
            replays += sum(steps - i + 1 for i, _ in replay.drawn_pairs(steps, len(sites)))
        if "lemica.error" in self.replayed:
            replays += sum(steps - i - gap for i, gap in replay.stretches(steps))
        return probes, replays


@dataclass(frozen=True)
class _Run:
    """One run, ready to measure."""

    order: WorkOrder
    pipe: VideoPipeline
    states: Mapping[str, PromptStates]
    measuring: _Measuring
    setting: Mapping[str, Any]
    out: Path
    listener: Listener | None
    note: Note
    mesh: Mesh

    @property
    def part(self) -> Path:
        """Where this rank stores what it has."""
        ranks = self.mesh.degrees.ranks
        if ranks == 1:
            return part_path(self.out)
        return part_path(self.out.with_name(f"{self.out.stem}.rank{self.mesh.rank}of{ranks}.safetensors"))

    def measure(self, samples: Sequence[Sample], *, replays: int) -> Prior:
        """Measure what is not yet in a file, this rank's share of it; it is stored after every sample."""
        if self.mesh.degrees.ranks == 1:
            prior, whole = self._begun(part_path(self.out), self.out), None
        else:
            prior = self._begun(self.part)
            whole = self.mesh.everyone.same(self._begun(part_path(self.out), self.out) if self.mesh.first else None)
        known: list[Prior] = [] if whole is None else [whole]
        work = []
        for place, sample in enumerate(samples):
            if place % self.mesh.degrees.ranks != self.mesh.rank:
                continue
            key = [sample.seed, sample.prompt]
            seen = [one.info for one in (*known, *([] if prior is None else [prior]))]
            probe = all(key not in info["samples"] for info in seen)
            again = place < replays and all(key not in info["replayed"] for info in seen)
            if probe or again:
                work.append((sample, probe, again and bool(self.measuring.replayed)))
        if prior is not None or known:
            self.note(f"{counted(len(samples) - len(work), 'sample')} of {len(samples)} measured before")
        tick = self._ticks(work)
        for sample, probe, again in work:
            found = self._sample(sample, tick, probe=probe, again=again)
            prior = found if prior is None else prior.merged(found)
            prior.save(self.part)
        parts = [*known, *(found for found in self.mesh.everyone.each(prior) if found is not None)]
        return merge(parts) if len(parts) > 1 else parts[0]

    def draw_curve(self, prior: Prior, samples: Sequence[Sample]) -> Prior:
        """Measure the speed-quality curve that ``min_psnr`` is read off, where SODA was measured."""
        if "soda" not in self.measuring.methods or not {*Soda.needs, *Soda.uses} <= set(prior.tables):
            return prior
        known, ranks = prior.info.get("curved", []), self.mesh.degrees.ranks
        work = [s for s in samples[self.mesh.rank :: ranks] if [s.seed, s.prompt] not in known]
        if work and not quality_curve.available():
            self.note("no speed-quality curve: it needs torchmetrics; pip install 'videoaccel[eval]' brings it")
            return prior
        steps, curves = self.order.settings.steps or 0, []
        tick = _counted(self.listener, "curve", len(work) * (steps + sum(quality_curve.counts(steps))))
        for sample in work:
            run, frames = self._denoising(sample), int(self.order.settings.frames or 1)
            tables = quality_curve.measure(run, self.pipe.vae, frames, prior.tables, tick=tick)
            curves.append(average([tables], self.setting, {"curved": [[sample.seed, sample.prompt]]}))
            if ranks == 1:
                merge([prior, *curves]).save(self.part)
        return merge([prior, *(curve for found in self.mesh.everyone.each(curves) for curve in found)])

    def finish(self, prior: Prior) -> Prior:
        """Put the prior in its place."""
        prior = with_correlation(prior)
        if self.mesh.first:
            prior.save(self.out)
            part_path(self.out).unlink(missing_ok=True)
        self.mesh.everyone.same(None)  # no part goes before the whole is there
        self.part.unlink(missing_ok=True)
        return replace(prior, path=self.out)

    def _begun(self, *paths: Path) -> Prior | None:
        """What an earlier run left, finished or not.

        Raises:
            FileExistsError: It is of another setting, or of other methods.
        """
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            return None
        prior = Prior.load(path)
        wrong = prior.differences(self.setting)
        if prior.info.get("methods") != ", ".join(self.measuring.methods):
            wrong.append(f"methods {prior.info.get('methods')}, here {', '.join(self.measuring.methods)}")
        if wrong:
            raise FileExistsError(
                f"{path} was begun for {', '.join(wrong)}; choose another `output`, or remove it to start anew"
            )
        return prior

    def _ticks(self, work: Sequence[tuple[Sample, bool, bool]]) -> Tick:
        if not work or self.listener is None:
            return _counted(None, "measure", 0)
        probes, replays = self.measuring.calls(self._denoising(work[0][0]))
        return _counted(self.listener, "measure", sum(probe * probes + again * replays for _, probe, again in work))

    def _sample(self, sample: Sample, tick: Tick, *, probe: bool, again: bool) -> Prior:
        run = self._denoising(sample)
        tables = self.measuring.measure(run, tick) if probe else {}
        checked: list[replay.Checked] = []
        if again:
            found, checked = self.measuring.replay(run, tick, seed=sample.seed)
            tables |= found
        if bad := [name for name, table in tables.items() if table.isnan().any()]:
            raise FloatingPointError(f"{bad[0]} came out as not-a-number; a wider `dtype` (bfloat16, float32) may help")
        key = [sample.seed, sample.prompt]
        info = {
            "videoaccel": __version__,
            "torch": torch.__version__,
            "model": self.order.source.name,
            "methods": ", ".join(self.measuring.methods),
            "samples": [key] if probe else [],
            "replayed": [key] if again else [],
            "influence_check": [list(pair) for pair in checked],
        }
        return average([tables], self.setting, info)

    def _denoising(self, sample: Sample) -> Denoising:
        s, order = self.order.settings, self.order
        request = self.pipe.request(
            prompt_states=[self.states[sample.texts[0]]],
            empty_prompt_states=self.states.get(""),
            height=order.height,
            width=order.width,
            num_frames=s.frames,
            fps=s.fps,
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            seed=[sample.seed],
        )
        return self.pipe.denoising(request)
