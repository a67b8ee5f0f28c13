"""Jobs of pipelines of diffusers: what decides their pixels, and the renderer that makes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from videoaccel.adapters.methods import plans
from videoaccel.common.devices import cpu_threads
from videoaccel.common.stages import Listener, StageClock
from videoaccel.jobs.generate import Clip
from videoaccel.jobs.memory_advice import memory_advice
from videoaccel.jobs.parts import free_cached
from videoaccel.jobs.sidecar import model_hash
from videoaccel.outside.find import Found
from videoaccel.outside.generate import Run
from videoaccel.outside.loading import folder_of, load
from videoaccel.outside.order import OutsideOrder, Sample, resolve_outside
from videoaccel.outside.sidecar import hashed_files
from videoaccel.outside.spreading import require_plans, spread
from videoaccel.outside.watching import StepTeller, accelerated
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import Mesh
from videoaccel.settings.config import settled
from videoaccel.settings.generate import GenerateSettings

ELSEWHERE = {
    "prompt", "seed", "seeds", "samples", "output", "device", "offload", "group_offload", "threads", "model", "accel",
    "speedup", "accel_options", "prior", "images", "video", "args", "measure_first", "trust_remote_code",
    "pipeline_class", "gpus", "dp", "cfg_parallel", "sp", "provider", "patience", "text_cache", "batch_size", "keep",
    "vae", "text_encoder", "references",
}  # fmt: skip
"""Settings that are no part of an identity, or are in it by what they mean."""


def ordered(settings: GenerateSettings, found: Found) -> OutsideOrder:
    """Resolve settings of jobs; ranks make clips side by side, each with a pipeline of its own, or all share each clip.

    A method that plans takes errors that were measured before: a clip must not depend on which came first.

    Raises:
        ValueError: They do not fit the pipeline.
    """
    ranks, together = settings.gpus or 1, settings.sp or 1
    if (settings.cfg_parallel or 1) > 1:
        raise ValueError(f"guidance branches of a {found.kind} are not dealt out to ranks; leave out `cfg_parallel`")
    if together not in (1, ranks):
        raise ValueError(
            f"ranks that render a {found.kind} make clips of their own, or all of them share each clip: "
            f"leave `sp` out, or give `sp={ranks}`"
        )
    if settings.batch_size > 1 or settings.keep is not None:
        raise ValueError(f"jobs of a {found.kind} are made one by one; leave out `batch_size` and `keep`")
    if settings.measure_first is not None:
        raise ValueError("`measure_first` has no place in a job: its clip would depend on which came first")
    update = {"gpus": None, "dp": None, "cfg_parallel": None, "sp": None}
    order = resolve_outside(settings.model_copy(update=update), found, ranks="side by side")
    if order.policy is not None and plans(order.policy):
        order = replace(order, settings=order.settings.model_copy(update={"measure_first": 0}))
    if together == 1:
        return replace(order, degrees=Degrees(data=ranks))
    require_plans(found, order.kind)
    shared = order.settings.model_copy(update={"gpus": together, "sp": together})  # what makes such a clip again
    return replace(order, settings=shared, degrees=Degrees(sequence=together))


def identified(order: OutsideOrder, *, hashes: Callable[[Path], str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The model's name and files, and hashes of what is read."""
    files = hashed_files(order.found, folder=folder_of(order.found), hashed=hashes)
    model = {"name": order.found.name, "sha256": model_hash(files), "files": files}
    paths = [*order.inputs, *([Path(order.settings.prior)] if order.settings.prior else [])]
    return model, {str(path): hashes(path) for path in paths}


def meaning(order: OutsideOrder, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What decides the pixels of all jobs of these settings, besides the model, the method and the threads."""
    s = order.settings
    return {
        "class": order.kind.__name__,
        "settings": settled(s, exclude=ELSEWHERE),
        "args": _by_contents(s.args, inputs),
        "images": [inputs[path] for path in s.images],
        "video": s.video and inputs[s.video],
        "prior": s.prior and inputs[s.prior],
        **({"ranks": order.degrees.sequence} if order.degrees.sequence > 1 else {}),  # they change its last bits
    }


@dataclass
class OutsideRenderer:
    """Makes clips of pipelines of diffusers on one device; the pipeline stays loaded from job to job.

    Attributes:
        device: In place of the jobs' own; None leaves it to them.
        mesh: The ranks that make clips together; only the one that leads writes them.
    """

    device: str | None = None
    mesh: Mesh = field(default_factory=Mesh)
    _loaded: tuple[str, Any] | None = None

    def make(
        self,
        order: OutsideOrder,
        samples: Sequence[Sample],
        *,
        engine: str,
        identity: Mapping[str, Any],
        offload: bool,
        tiling: bool,
        listener: Listener,
    ) -> list[Clip]:
        """Make clips.

        Args:
            order: Of their settings.
            samples: The clips.
            engine: Equal for orders that run on the same loaded pipeline.
            identity: Hashes of the model's files and of what is read.
            offload: Keep on the GPU only the network at work.
            tiling: Decode in tiles.
            listener: Told of every stage and step.

        Raises:
            OutOfMemoryError: Memory ran out.
        """
        s = order.settings
        update = {"device": self.device or s.device, "vae_tiling": s.vae_tiling or tiling}
        update |= {"offload": s.offload or (offload and not s.group_offload)}
        order = replace(order, settings=s.model_copy(update=update))
        stage = ["start"]

        def tell(name: str, done: int, total: int) -> None:
            stage[0] = name
            listener(name, done, total)

        clock = StageClock(tell, device=str(order.settings.device))
        with memory_advice(order, lambda: stage[0]), cpu_threads(order.settings.threads), torch.no_grad():
            with clock.stage("load"):
                pipe = self._pipe(order, json.dumps([engine, self.device, offload, tiling]))
            with accelerated(pipe, order, StepTeller(tell)) as fast:
                run = Run(order, pipe, order.told(pipe), fast, identity, clock.seconds, writes=self.mesh.leads)
                return [clip for sample in samples for clip in run.together((sample,), listener=tell)]

    def forget(self) -> None:
        """Let go of the pipeline."""
        self._loaded = None

    def _pipe(self, order: OutsideOrder, key: str) -> Any:
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old networks go before the new ones come
            free_cached(str(order.settings.device))
            pipe = load(order.found, order.kind, order.settings)
            if (ranks := order.degrees.sequence) > 1:
                spread(pipe, ranks, torch.device(str(order.settings.device)))
            self._loaded = (key, pipe)
        return self._loaded[1]


def _by_contents(value: Any, inputs: Mapping[str, str]) -> Any:
    """Arguments with hashes of files in place of their names."""
    if isinstance(value, Mapping):
        return {name: _by_contents(item, inputs) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_by_contents(item, inputs) for item in value]
    if isinstance(value, str) and value.startswith("@") and not value.startswith("@@"):
        return f"@{inputs[value[1:]]}"
    return value
