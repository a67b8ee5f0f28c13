"""What a render will take: as clips of the same settings took, else predicted from the network's own cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from videoaccel.outside.order import OutsideOrder
from videoaccel.preview.preview import plan as plan_method
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.plan import Group, Plan, Planned
from videoaccel.rendering.run import Render
from videoaccel.rendering.said import mapping, number
from videoaccel.settings.latent_frames import frames_of
from videoaccel.settings.sizes import resolve_size

MEASURED, PREDICTED, UNKNOWN = "measured", "predicted", "unknown"

_READ = 20  # sidecars of a group that are looked into
_RAW = 1.5  # bytes a pixel of an uncompressed frame in the colours of an mp4


@dataclass(frozen=True)
class Estimate:
    """Of the jobs that share their settings.

    Attributes:
        group: What they share.
        jobs: How many are still to be made.
        seconds: Of one clip; None if nobody knows.
        source: ``measured`` on clips of this folder, ``predicted`` (denoising alone), or ``unknown``.
        why: Of ``unknown``, the reason.
        bytes: Of one clip: as measured, else at most, uncompressed.
        memory: Bytes at the peak, as measured; None if no clip was made yet.
        weights: Bytes of the model's files.
    """

    group: Group
    jobs: int
    seconds: float | None
    source: str
    why: str | None
    bytes: int
    memory: int | None
    weights: int


def estimate(render: Render, *, time: bool = True) -> list[Estimate]:
    """What the jobs that are not finished will take, by settings.

    Args:
        render: From `videoaccel.rendering.run.open_render`.
        time: Predict, where no clip was made yet, from a measurement of the network, which loads the model.
    """
    finished = render.folder.finished()
    left = [job for job in render.plan.jobs if job.id not in finished]
    records = list(_records(render.folder, render.plan))
    groups: dict[str, list[Planned]] = {}
    for job in left:
        groups.setdefault(job.group.key, []).append(job)
    return [_of_group(jobs, [r for r in records if r["group"] == key[:16]], time=time)
            for key, jobs in groups.items()]  # fmt: skip


def _records(place: RenderFolder, plan: Plan) -> Iterator[Mapping[str, Any]]:
    """Some sidecars of every group, with what is asked of them in the types that it has to have."""
    group_of = {job.folder: job.group.key for job in plan.jobs}
    counts: dict[str, int] = {}
    for folder in place.finished().values():
        # Clips that the job file does not ask for any more may be of the same settings, too.
        key = group_of.get(folder.name, "")
        if counts.get(key, 0) < _READ:
            counts[key] = counts.get(key, 0) + 1
            record = place.record(folder.name)
            took = {stage: number(seconds) for stage, seconds in mapping(record.get("seconds")).items()}
            group, memory = mapping(record.get("job")).get("group"), number(record.get("peak_memory_bytes"))
            if isinstance(group, str) and took and None not in took.values() and memory is not None:
                with suppress(OSError):
                    size = place.clips.folder(folder.name).size()
                    yield {"group": group, "seconds": took, "peak_memory_bytes": round(memory), "bytes": size}


def _of_group(jobs: Sequence[Planned], records: Sequence[Mapping[str, Any]], *, time: bool) -> Estimate:
    group, count = jobs[0].group, len(jobs)
    weights = _weights(group)
    if records:
        seconds = statistics.median(
            sum(took for stage, took in record["seconds"].items() if stage not in ("load", "text"))
            for record in records
        )
        size = round(statistics.median(record["bytes"] for record in records))
        memory = max(record["peak_memory_bytes"] for record in records)
        return Estimate(group, count, seconds, MEASURED, None, size, memory, weights)
    seconds, why = _predicted(group) if time else (None, "--no-time")
    source = UNKNOWN if seconds is None else PREDICTED
    return Estimate(group, count, seconds, source, why, _at_most(group), None, weights)


def _predicted(group: Group) -> tuple[float | None, str | None]:
    """Seconds of denoising a clip; the network is measured once on this machine."""
    if group.outside is not None:
        return None, "a pipeline of diffusers is timed by its first clip"
    s = group.order.settings
    method = {} if s.accel or s.speedup else {"accel": "off"}
    try:
        report = plan_method(s.model_copy(update={**method, "batch_size": 1}))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return None, " ".join(str(error).split())
    if report.ms is None:
        return None, f"what {report.method} does depends on the clip"
    return s.loops * report.ms.total(report.steps, report.shares) / 1000, None


def _at_most(group: Group) -> int:
    order, s = group.order, group.order.settings
    if isinstance(order, OutsideOrder):
        height, width = resolve_size(s.size) if s.size else (0, 0)
        return round(_RAW * height * width * (s.frames or 1))
    assert s.frames is not None
    again = frames_of(s.condition_latents or 0)
    frames = s.frames + (s.loops - 1) * (s.frames - again)
    return round(_RAW * order.height * order.width * frames)


def _weights(group: Group) -> int:
    if isinstance(group.order, OutsideOrder):
        files = group.order.found.folder
        return 0 if files is None else sum(path.stat().st_size for path in files.rglob("*.safetensors"))
    folder = group.order.source.folder
    if folder is None:
        return 0
    parts = ("transformer", "vae")
    return sum(path.stat().st_size for part in parts for path in (folder / part).glob("*.safetensors"))
