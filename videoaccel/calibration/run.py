"""Calibration at work: samples measured one by one, and their mean in a file that grows with every one.

Shape legend: N steps, M module sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videoaccel import __version__
from videoaccel.calibration import fitted_steps, quality_curve, replay
from videoaccel.calibration.files import part_path, require_same, with_correlation
from videoaccel.calibration.fitted_steps import HELD_OUT
from videoaccel.calibration.fitting import Clips
from videoaccel.calibration.probing import SiteInfluence, Tick, average, every_site, run_probe, site_groups
from videoaccel.common.stages import Listener
from videoaccel.common.wording import counted
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.jobs.samples import Sample
from videoaccel.parallel.mesh import Mesh
from videoaccel.planning.prior import Prior, merge
from videoaccel.policies.soda import Soda
from videoaccel.session.policy import Probe
from videoaccel.session.registry import policy_class
from videoaccel.text.encoder import PromptStates

if TYPE_CHECKING:  # it needs torchmetrics, an extra
    from videoaccel.eval.perceptual import Lpips

Note = Callable[[str], None]


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
class Measuring:
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
class Run:
    """One run, ready to measure."""

    order: WorkOrder
    pipe: VideoPipeline
    states: Mapping[str, PromptStates]
    measuring: Measuring
    setting: Mapping[str, Any]
    out: Path
    listener: Listener | None
    note: Note
    mesh: Mesh
    lpips: Lpips | None

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
        """Measure the speed-quality curve that targets are read off, where SODA was measured."""
        if "soda" not in self.measuring.methods or not {*Soda.needs, *Soda.uses} <= set(prior.tables):
            return prior
        known, ranks = prior.info.get("curved", []), self.mesh.degrees.ranks
        work = [s for s in samples[self.mesh.rank :: ranks] if [s.seed, s.prompt] not in known]
        if not quality_curve.available():  # which was said before anything was loaded
            return prior
        steps, curves = self.order.settings.steps or 0, []
        tick = _counted(self.listener, "curve", len(work) * (steps + sum(quality_curve.counts(steps))))
        for sample in work:
            run, frames = self._denoising(sample), int(self.order.settings.frames or 1)
            tables = quality_curve.measure(run, self.pipe.vae, frames, prior.tables, lpips=self.lpips, tick=tick)
            curves.append(average([tables], self.setting, {"curved": [[sample.seed, sample.prompt]]}))
            if ranks == 1:
                merge([prior, *curves]).save(self.part)
        return merge([prior, *(curve for found in self.mesh.everyone.each(curves) for curve in found)])

    def fit(self, prior: Prior, samples: Sequence[Sample], *, search: int = 0) -> Prior:
        """Fit the steps that SODA serves, where it was measured; the first rank does."""
        keys: list[Any] = [[sample.seed, sample.prompt] for sample in samples]
        keys += [f"{search} rounds of search"] if search else []
        if "soda.velocity" not in prior.tables or not samples or prior.info.get("fitted") == keys:
            return prior
        if len(samples) < HELD_OUT:
            self.note(f"nothing is fitted: of {counted(len(samples), 'sample')} none is held out, {HELD_OUT} would do")
            return prior
        if not quality_curve.available():
            return prior
        found = self.mesh.everyone.same(self._fitted(prior, samples, search) if self.mesh.first else None)
        info = {**prior.info, "fitted": keys}
        count = dict.fromkeys(found, len(samples))
        return replace(prior, tables={**prior.tables, **found}, samples={**prior.samples, **count}, info=info)

    def _fitted(self, prior: Prior, samples: Sequence[Sample], search: int) -> dict[str, torch.Tensor]:
        steps, frames = self.order.settings.steps or 0, int(self.order.settings.frames or 1)
        tick = _counted(self.listener, "fit", fitted_steps.calls_of(len(samples), steps, search=search))
        runs = [self._denoising(sample) for sample in samples]
        parts = ([runs[k] for k in part] for part in fitted_steps.parted(len(samples)))
        fitting, held = (Clips.of(part, tick=tick) for part in parts)
        of_fitting, of_held = (quality_curve.against(self.pipe.vae, one.wanted[-1], frames) for one in (fitting, held))
        return fitted_steps.fit_steps(fitting, held, prior.tables, (of_fitting, of_held), search=search)

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
        require_same(prior, self.setting, self.measuring.methods, path)
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
