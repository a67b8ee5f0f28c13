"""The JSON beside what a pipeline of diffusers made: as of our own clips, and what is known of the pipeline."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from videoaccel.adapters.attach import Attachment
from videoaccel.adapters.methods import plans
from videoaccel.jobs.sidecar import FORMAT, device_name, file_hash, model_hash, titles, versions
from videoaccel.outside.find import WEIGHTS, Found
from videoaccel.outside.order import OutsideOrder, Sample
from videoaccel.settings.generate import TARGETS

SUFFIXES = (*WEIGHTS, ".json", ".model", ".txt", ".jinja", ".py")
"""Files of a pipeline's folder that decide what comes out."""


def describe(
    order: OutsideOrder, sample: Sample, *, made: Mapping[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """The sidecar of one clip.

    Args:
        order: The run.
        sample: The clip.
        made: What only the run knows.
        settings: Those that make it again, see :func:`recipe`.
    """
    s = order.settings
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "prompt": sample.prompt,
        "seed": sample.seed,
        "settings": settings,
        **made,
        "versions": versions(),
        "machine": {
            "device": s.device,
            "name": device_name(torch.device(str(s.device))),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
        },
    }


def recipe(order: OutsideOrder, batch: Sequence[Sample], row: int, fast: Attachment | None) -> dict[str, Any]:
    """Settings that make one clip of a batch again, whatever the user's cache of measured errors holds then.

    Its neighbours are made too, since its last bits depend on them. A clip that was planned names the file of its
    errors; one that was computed whole to be measured has no method.
    """
    s, sample = order.settings, batch[row]
    seeds = {"seed": sample.seed, "seeds": (), "keep": None}
    if len(batch) > 1:
        seeds = {"seed": 0, "seeds": tuple(one.seed for one in batch), "keep": row}
    update: dict[str, Any] = {
        "prompt": tuple(one.prompt for one in batch if one.prompt is not None),
        "batch_size": len(batch),
        **seeds,
        "vbench": None,
        "samples": 1,
        "output": sample.outputs.clip,
    }
    if order.policy is not None and fast is not None and plans(order.policy):
        if fast.prior is None:
            update |= dict.fromkeys(("accel", *TARGETS, "prior"))
            update |= {"accel_options": {}, "allow_foreign_prior": False, "measure_first": None, "speedup_of": None}
        elif fast.prior.path is not None:
            update["prior"] = str(Path(fast.prior.path).absolute())
    return s.model_copy(update=update).model_dump(mode="json")


def acceleration(order: OutsideOrder, fast: Attachment | None) -> dict[str, Any] | None:
    """What a method did in the last generation; None without one."""
    if order.policy is None or fast is None:
        return None
    planned = plans(order.policy)
    return {
        "method": order.policy.name,
        **titles(order.settings, order.policy),
        "fields": order.policy.model_dump(mode="json"),
        "measured": planned and fast.prior is None,
        "prior": None if fast.prior is None or fast.prior.path is None else str(fast.prior.path),
        "note": fast.report().note,
        **({} if fast.report().residual is None else {"residual": fast.report().residual}),
    }


def network(fast: Attachment | None) -> dict[str, Any] | None:
    """How often the networks ran in the last generation; None of a pipeline whose calls are not seen."""
    if fast is None:
        return None
    report = fast.report()
    data = dataclasses.asdict(report)
    kept = ("evaluations", "segments", "streams", "passed", "due", "stored_bytes")
    return {
        "calls": report.calls,
        "computed": report.calls_computed,
        "evaluations_computed": list(report.computed),
        **{name: data[name] for name in kept},
        "refused": report.reasons,
        "seconds": round(report.seconds_in_networks, 3),
    }


def identity(order: OutsideOrder, *, folder: Path | None, inputs: list[Path]) -> dict[str, Any]:
    """Hashes of the model's files and of what is read."""
    files = hashed_files(order.found, folder=folder)
    return {
        "model": {"name": order.found.name, "sha256": model_hash(files), "files": files},
        "inputs": {str(path): file_hash(path) for path in inputs},
    }


def hashed_files(
    found: Found, *, folder: Path | None, hashed: Callable[[Path], str] = file_hash
) -> dict[str, str | None]:
    """sha256 of every file of a pipeline that decides what comes out, by name; empty if its folder is not here."""
    if found.file is not None:
        return {found.file.name: hashed(found.file)}
    if folder is None:
        return {}
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    seen = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return {name.as_posix(): hashed(folder / name) for name in seen if (folder / name).is_file()}
