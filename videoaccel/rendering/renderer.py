"""Who makes a clip: anything that takes a unit of work and leaves its clips in folders.

The worker around it knows leases, retries and files; a renderer knows networks. One that runs on several ranks is a
renderer like the one on a single device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from videoaccel.common.devices import cpu_threads
from videoaccel.common.stages import Listener, StageClock
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.jobs.generate import Clip, Run
from videoaccel.jobs.memory_advice import OutOfMemoryError, memory_advice
from videoaccel.jobs.parts import free_cached, load_pipeline, load_text, read_given, text_key, texts_needed
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.outside.order import OutsideOrder
from videoaccel.parallel.mesh import Mesh
from videoaccel.rendering.outside import OutsideRenderer
from videoaccel.rendering.plan import Group, Planned, Unit
from videoaccel.text.cache import TextCache, TextKey
from videoaccel.text.encoder import PromptStates, encode


class Renderer(Protocol):
    """Takes a job and yields a clip."""

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> Sequence[tuple[Planned, Clip]]:
        """Make a unit's clips.

        Args:
            unit: What to make.
            into: By identity the folder for a clip, its sidecar and its poster; jobs that are not named are finished.
            listener: Told of every stage and step; what it raises ends the job.

        Returns:
            A clip a job that is named.

        Raises:
            OutOfMemoryError: Memory ran out, and `ease` knows nothing more.
            Exception: Whatever went wrong.
        """
        ...

    def ease(self, unit: Unit, error: OutOfMemoryError) -> str | None:
        """Prepare to make a unit with less memory.

        Returns:
            What will be done from now on for units like this; None if there is nothing left to do.
        """
        ...

    def eased(self, unit: Unit) -> tuple[str, ...]:
        """What `ease` has led to so far for units like this."""
        ...


@dataclass(frozen=True)
class Ease:
    """How much memory is saved.

    Attributes:
        batch: Clips made at once; None for all of the unit.
        offload: Keep on the GPU only the network at work.
        tiling: Decode in tiles.
        taken: The steps so far, in words.
    """

    batch: int | None = None
    offload: bool = False
    tiling: bool = False
    taken: tuple[str, ...] = ()


@dataclass
class LocalRenderer:
    """Makes clips on one device of this machine; the networks stay loaded from job to job.

    Attributes:
        texts: Where text states are.
        device: Device in place of the jobs' own; None leaves it to them.
        mesh: The ranks that make clips together, all of which call `make`; only the one that leads gets clips.
    """

    texts: TextCache
    device: str | None = None
    mesh: Mesh = field(default_factory=Mesh)
    _loaded: tuple[str, VideoPipeline] | None = None
    _keys: dict[tuple[str, ...], TextKey] = field(default_factory=dict)
    _eased: dict[str, Ease] = field(default_factory=dict)
    _given: tuple[str, list[Tensor]] | None = None
    _other: OutsideRenderer = field(default_factory=OutsideRenderer)

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> list[tuple[Planned, Clip]]:
        """Make a unit's clips, see `Renderer`."""
        group = unit.jobs[0].group
        ease = self._eased.get(group.key, Ease())
        if group.outside is not None:
            return self._outside(group.outside, unit, into, ease, listener)
        self._other.forget()
        order = self._order(unit.work_order(into), ease)
        stage = _Stage(listener)
        clock = StageClock(stage, device=str(order.settings.device))
        made: list[tuple[Planned, Clip]] = []
        with memory_advice(order, lambda: stage.name), cpu_threads(order.settings.threads), torch.inference_mode():
            with clock.stage("text"):
                states = self._states(order)
            with clock.stage("load"):
                pipe = self._pipe(order, group, ease)
            identity = {"model": group.model, "inputs": group.inputs}
            run = Run(order, pipe, states, self._read(order, group), identity, clock.seconds)
            (batch,) = order.batches
            size = ease.batch or len(batch)
            for start in range(0, len(batch), size):
                wanted = [job for job in unit.jobs[start : start + size] if job.id in into]
                if wanted:
                    clips = list(run.make(batch[start : start + size], listener=stage))
                    assert len(clips) == len(wanted) * self.mesh.leads
                    made += [(job, _placed(job, clip)) for job, clip in zip(wanted, clips, strict=False)]
        return made

    def _outside(
        self, order: OutsideOrder, unit: Unit, into: Mapping[str, Path], ease: Ease, listener: Listener
    ) -> list[tuple[Planned, Clip]]:
        self._loaded, self._other.device, self._other.mesh = None, self.device, self.mesh
        (job,) = unit.jobs
        clips = self._other.make(
            order,
            [job.alone(into[job.id])],
            engine=job.group.engine,
            identity={"model": job.group.model, "inputs": job.group.inputs},
            offload=ease.offload,
            tiling=ease.tiling,
            listener=listener,
        )
        return [(job, _placed(job, clip)) for clip in clips]

    def ease(self, unit: Unit, error: OutOfMemoryError) -> str | None:
        """Smaller batches first, then offloading, then tiles in decoding, which leave faint seams."""
        group = unit.jobs[0].group
        now, s = self._eased.get(group.key, Ease()), group.order.settings
        size = now.batch or len(unit.jobs)
        cuda = str(self.device or s.device).startswith("cuda")
        if size > 1:
            step, new = f"batches of {size // 2}", replace(now, batch=size // 2)
        elif cuda and not (s.offload or now.offload):
            step, new = "offload", replace(now, offload=True)
        elif not (s.vae_tiling or now.tiling):
            step, new = "vae_tiling", replace(now, tiling=True)
        else:
            return None
        self._eased[group.key] = replace(new, taken=(*now.taken, step))
        self._loaded = None
        self._other.forget()
        free_cached(str(self.device or s.device))
        return step

    def eased(self, unit: Unit) -> tuple[str, ...]:
        """What `ease` has led to so far for units like this."""
        return self._eased.get(unit.jobs[0].group.key, Ease()).taken

    def encode(self, order: WorkOrder, texts: Sequence[str], *, keep: Callable[[str, PromptStates], None]) -> None:
        """Encode texts with the encoder in memory once, and let go of it; nothing else is loaded meanwhile."""
        self._loaded = None
        order = self._order(order, Ease())
        tokenizer, encoder = load_text(order)
        length = self.key(order).max_length
        with cpu_threads(order.settings.threads), torch.inference_mode():
            for text in texts:
                states = encode([text], tokenizer=tokenizer, text_encoder=encoder, max_length=length)
                keep(text, states.to("cpu"))
        del tokenizer, encoder
        free_cached(str(order.settings.device))

    def cache(self, order: WorkOrder) -> TextCache:
        """Where an order's text states are: in the user's cache if it says so."""
        return TextCache() if order.settings.text_cache else self.texts

    def key(self, order: WorkOrder) -> TextKey:
        """What they depend on besides the text."""
        source = order.source
        network = source.spec.transformer.source if source.spec.transformer else ""
        said = (source.text.source, source.text.subfolder or "", str(source.folder), network)
        if said not in self._keys:
            self._keys[said] = text_key(order)
        return self._keys[said]

    def _states(self, order: WorkOrder) -> dict[str, PromptStates]:
        key, texts, cache = self.key(order), texts_needed(order), self.cache(order)
        found = {text: cache.get(text, key=key) for text in texts}
        states = {text: one for text, one in found.items() if one is not None}
        if lost := [text for text in texts if text not in states]:  # a damaged file, or somebody cleared the folder
            self.encode(order, lost, keep=lambda text, one: states.update({text: one}))
        return states

    def _order(self, order: WorkOrder, ease: Ease) -> WorkOrder:
        s = order.settings
        update: dict[str, Any] = {"device": self.device or s.device}
        update |= {"offload": s.offload or ease.offload, "vae_tiling": s.vae_tiling or ease.tiling}
        return replace(order, settings=s.model_copy(update=update))

    def _pipe(self, order: WorkOrder, group: Group, ease: Ease) -> VideoPipeline:
        key = json.dumps([group.engine, self.device, ease.offload, ease.tiling])
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old networks go before the new ones come
            free_cached(str(order.settings.device))
            self._loaded = (key, load_pipeline(order).parallelize(self.mesh))
        return self._loaded[1]

    def _read(self, order: WorkOrder, group: Group) -> list[Tensor]:
        """Given pictures and clips; those of the group before are kept."""
        if self._given is None or self._given[0] != group.key:
            self._given = (group.key, read_given(order))
        return self._given[1]


@dataclass
class _Stage:
    """Passes progress on, and remembers the stage for messages."""

    listener: Listener
    name: str = "start"

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.name = stage
        self.listener(stage, done, total)


def _placed(job: Planned, clip: Clip) -> Clip:
    """The record as it will be where the clip is put: with names, not the paths of the folder it was made in."""
    record = {**clip.record, "output": {**clip.record["output"], "file": job.job.file}}
    if (sound := record["output"].get("sound")) is not None:
        record["output"]["sound"] = {**sound, "file": Path(sound["file"]).name}
    record["settings"] = {**record["settings"], "output": job.job.file}
    return Clip(clip.outputs, record)
