"""How near clips by a method are to their exact twins, for the gallery: PSNR, measured once and kept with the render.

The report measures more, with torchmetrics (`videoaccel.reporting.twins`); this takes nothing but decoded frames.

Shape legend: H, W pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from videoaccel.common.alone import BusyError, alone
from videoaccel.common.plain_json import parse_json, to_json
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import open_clip
from videoaccel.rendering.copies import lent, stamp
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.said import MIB, mapping, number, text
from videoaccel.rendering.twins import pairs

KEPT = "psnr.json"
"""Name of the file among a render's own that holds what was measured."""

CEILING = 100.0
"""dB that a frame without any difference counts beside others that differ, as in `videoaccel.eval.fidelity`."""

_LARGEST = 64 * MIB
_FAULTS = (OSError, ValueError, MemoryError)


def measured(folder: RenderFolder) -> dict[str, float]:
    """By the name of a clip's folder its PSNR against its exact twin, dB; infinite where they are equal."""
    kept = ((place, mapping(one).get("psnr")) for place, one in _read(folder).items())
    found = ((place, math.inf if psnr == "inf" else number(psnr)) for place, psnr in kept)
    return {place: psnr for place, psnr in found if psnr is not None}


def measure(folder: RenderFolder, *, seconds: float) -> int:
    """Measure clips that have a finished exact twin and were not measured yet; those that cannot be are passed over.

    Args:
        folder: Of the render.
        seconds: After so many no further clip is begun; the next run goes on.

    Returns:
        How many were measured.

    Raises:
        OSError: What was measured cannot be kept.
    """
    until, new = time.monotonic() + seconds, dict[str, Any]()
    with suppress(BusyError), alone(folder.work / KEPT):  # one of several workers does it
        known = _read(folder)
        for clip, twin in pairs(_records(folder)):
            place = str(clip["folder"])
            with suppress(*_FAULTS):
                key = _key(folder, clip, twin)
                if mapping(known.get(place)).get("key") == key:
                    continue
                if time.monotonic() > until:
                    break
                new[place] = {"key": key, "psnr": _psnr(folder, clip, twin)}
        if new:
            folder.work.write(KEPT, to_json({**known, **new}).encode())
    return len(new)


def _read(folder: RenderFolder) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = parse_json(folder.work.read(KEPT, limit=_LARGEST))
        return found if isinstance(found, dict) else {}
    return {}


def _records(folder: RenderFolder) -> list[Mapping[str, Any]]:
    """Sidecars of films, each with ``folder``."""
    places = [path.name for path in folder.finished().values()]
    found = [{**folder.record(place), "folder": place} for place in places]
    return [one for one in found if not (text(mapping(one.get("output")).get("file")) or "").endswith(".wav")]


def _key(folder: RenderFolder, *clips: Mapping[str, Any]) -> str:
    stamps = [stamp(folder, str(one["folder"]), one) for one in clips]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _psnr(folder: RenderFolder, clip: Mapping[str, Any], twin: Mapping[str, Any]) -> float:
    """Mean over frames, dB; infinite if all are equal.

    Raises:
        ValueError: They cannot be compared, or one cannot be read.
    """
    with lent(folder, str(clip["folder"]), clip) as path, lent(folder, str(twin["folder"]), twin) as reference:
        found = list(_by_frame(path, reference))
    if not found:
        raise ValueError("there is no frame")
    return math.inf if min(found) == math.inf else sum(min(one, CEILING) for one in found) / len(found)


def _by_frame(path: Path, reference: Path) -> Iterator[float]:
    with open_clip(path) as clip, open_clip(reference) as wanted:
        for one, other in zip_longest(clip.frames, wanted.frames):
            if one is None or other is None or one.shape != other.shape:
                raise ValueError("a clip and its twin have other sizes or numbers of frames")
            yield _nearness(one, other)


def _nearness(one: Frames, other: Frames) -> float:
    """PSNR of a frame [H, W, 3], dB."""
    error = float(np.mean(np.square(one.astype(np.float64) - other)))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
