"""What ``videoaccel generate`` says: what would be made, and what was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from videoaccel.cli.flags import flag
from videoaccel.cli.outside import summary as made
from videoaccel.common.wording import as_bytes, counted

if TYPE_CHECKING:
    from videoaccel.cli.generate import Job
    from videoaccel.jobs.generate import Clip
    from videoaccel.jobs.resolve import WorkOrder
    from videoaccel.jobs.sidecar import Sidecar


def planned(order: WorkOrder, job: Job) -> str:
    """What a dry run prints: YAML that ``--config`` takes, and the rest as comments."""
    where = order.source.folder or ", ".join(
        part.source for part in (order.source.spec.transformer, order.source.spec.vae, order.source.text) if part
    )
    settings = yaml.safe_dump(order.settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    seeds = [sample for batch in order.batches for sample in batch if sample.outputs]
    clips = [f"  {' '.join(s.outputs.all)}  (seed {s.seed}: {s.prompt!r})" for s in seeds if s.outputs]
    notes = [
        *([difference(job)] if job.changed else []),
        *([order.ranks] if order.degrees.ranks > 1 else []),
        *([_unchecked(order)] if order.policy is not None and order.policy.required else []),
        f"would load: {where}",
        "would write:",
        *clips,
    ]
    return "\n".join([settings, *(f"# {note}" for note in notes)])


def _unchecked(order: WorkOrder) -> str:
    assert order.policy is not None
    return f"{order.policy.name} needs a calibrated prior; videoaccel plan with these options says whether there is one"


def difference(job: Job) -> str:
    """In which settings a clip is another than that of its sidecar."""
    assert job.origin is not None
    names = ", ".join(flag(name) for name in job.changed)
    return f"this will be another clip than that of {job.origin.path}: other {names}"


def summary(clip: Clip, origin: Sidecar | None) -> str:
    """What was made, how long it took, and how often the network ran."""
    record, out = clip.record, clip.record["output"]
    if "pipeline" in record:
        return "\n".join([made(record), *_as_before(out, origin)])
    seconds = ", ".join(f"{name} {took:.1f} s" for name, took in record["seconds"].items())
    lines = [
        f"{out['file']}  {counted(out['frames'], 'frame')}, {out['height']}x{out['width']}, {out['fps']:g} fps, "
        f"seed {record['seed']}",
        f"  {seconds}; total {sum(record['seconds'].values()):.1f} s; peak memory "
        f"{as_bytes(record['peak_memory_bytes'])}",
    ]
    if (done := record.get("acceleration")) is not None:
        lines.append(f"  {_accelerated(done, steps=record['settings']['steps'])}")
    return "\n".join([*lines, *_as_before(out, origin)])


def _as_before(out: Mapping[str, Any], origin: Sidecar | None) -> list[str]:
    """Whether a clip that was made again is the same."""
    return [] if origin is None else [f"  {_comparison(out, origin.record['output'])} the clip of {origin.path}"]


def _accelerated(done: Mapping[str, Any], *, steps: int) -> str:
    """What a method did, over all loops.

    >>> loop = {"network_calls": 20.0, "actions": {"compute": 20, "forecast1": 10}, "cache_peak_bytes": 163840}
    >>> _accelerated({"method": "soda", "loops": [loop]}, steps=30)
    'soda: 20 of 30 network calls (20 compute, 10 forecast1), stored 160 KiB'
    >>> _accelerated({"method": "pab", "loops": [{**loop, "explained": {"flops_share": 0.62}}]}, steps=30)
    'pab: 20 of 30 network calls (38% of all FLOPs saved), stored 160 KiB'
    >>> _accelerated({"method": "pab", "loops": [{**loop, "flops_share": 0.62}]}, steps=30)
    'pab: 20 of 30 network calls (38% of all FLOPs saved), stored 160 KiB'
    >>> coarser = {"slots": "coarsest"}
    >>> _accelerated({"method": "soda", "loops": [loop], "coarser_for_cache_memory": coarser}, steps=30)[-59:]
    '160 KiB; --cache-memory took a coarser form: slots coarsest'
    """
    loops, actions = done["loops"], Counter[str]()
    for loop in loops:
        actions.update(loop["actions"])
    calls = sum(loop["network_calls"] for loop in loops)
    what = ", ".join(f"{count} {name}" for name, count in actions.most_common())
    shares = [loop.get("explained", loop).get("flops_share") for loop in loops]
    if None not in shares:  # counts of actions are of modules of all sizes; operations say what they come to
        what = f"{1 - sum(shares) / len(shares):.0%} of all FLOPs saved"
    title = done.get("title", done["method"])
    text = f"{title}: {calls:g} of {counted(steps * len(loops), 'network call')}{f' ({what})' if what else ''}"
    stored = max(loop["cache_peak_bytes"] for loop in loops)
    text += f", stored {as_bytes(stored)}" if stored else ""
    changed = ", ".join(f"{name} {value}" for name, value in done.get("coarser_for_cache_memory", {}).items())
    return f"{text}; --cache-memory took a coarser form: {changed}" if changed else text


def _comparison(now: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    if ending(now["file"]) != ending(model["file"]):
        return "the same settings in another format, so its bytes are not compared with"
    return "the same bytes as" if now["sha256"] == model.get("sha256") else "NOT the same bytes as"


def ending(file: str) -> str:
    """What a file's name ends in; "/" for a folder."""
    return "/" if file.endswith("/") else Path(file).suffix
