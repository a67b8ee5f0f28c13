"""What methods cost in quality in a render: each clip by a method against its exact twin, where both are finished.

Measured on decoded frames as `compare` does, and kept beside the report, so that a second one measures what is new.
Needs torchmetrics, which the extra [eval] brings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from videoaccel.common.extras import need
from videoaccel.common.files import told
from videoaccel.common.plain_json import json_lines, to_json
from videoaccel.common.stages import Listener
from videoaccel.comparison.worst import FRAMES, strip
from videoaccel.media.contact_sheet import evenly_spaced
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import open_clip
from videoaccel.rendering.copies import lent, stamp
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.said import text, whole
from videoaccel.rendering.twins import Clip, is_exact, pairs
from videoaccel.reporting.shapes import Twin, fits

MEASURED = "quality.jsonl"
"""Name of the file beside a report that holds what was measured."""

HOW = (
    "Quality of a render: PSNR and SSIM of decoded frames, as they were written, of a clip by a method against the "
    "finished clip of the same model, prompt, seed and settings without one, averaged over frames, then clips."
)
"""How it was measured, in a sentence."""

_VERSION = 1  # of what is measured; a higher one measures all anew
_CHUNK = 4  # frames in memory of either clip
_FAULTS = (OSError, ValueError, MemoryError, RuntimeError)  # torch's out-of-memory is a RuntimeError


class Measured:
    """What was measured before, by a key of all that it depends on.

    Args:
        folder: Of the report.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEASURED
        self.known: dict[str, Mapping[str, Any]] = {}
        with suppress(OSError, ValueError):
            for row in json_lines(self.path):
                if isinstance(row, dict) and fits(Twin, row):
                    self.known[row["key"]] = row

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a measurement.

        Raises:
            OSError: The disk is full, or the folder read-only.
        """
        self.known[row["key"]] = row
        with told(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(f"{to_json(row)}\n".encode())


def twins(
    root: Path,
    clips: Sequence[Clip],
    label: Callable[[Clip], str],
    *,
    measured: Measured,
    listener: Listener | None = None,
) -> dict[str, Any] | None:
    """Quality of a render's clips by label, and of each.

    Args:
        root: Folder of the render.
        clips: As of `pairs`.
        label: Of a clip's settings; quality is averaged over clips of one label.
        measured: Before.
        listener: Hears of each pair.

    Returns:
        None where there is no pair.

    Raises:
        OSError: What was measured cannot be kept.
    """
    both = [pair for pair in pairs(clips) if not str(pair[0]["output"].get("file")).endswith(".wav")]
    if not both:
        return None
    without = sum(not is_exact(clip) for clip in clips) - len(both)
    try:
        need("quality against exact twins", "torchmetrics", "eval")
    except ValueError as missing:  # the rest of the report is worth having
        return {"missing": str(missing), "pairs": len(both), "without": without}
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    lowest: dict[str, float] = {}
    for number, (clip, twin) in enumerate(both):
        if listener is not None:
            listener("quality", number, len(both))
        name = label(clip)
        try:
            row = _row(RenderFolder(root), clip, twin, measured, worst=lowest.get(name, math.inf))
        except _FAULTS as error:
            failed.append({"clip": str(clip["folder"]), "error": " ".join(str(error).split()) or type(error).__name__})
            continue
        lowest[name] = min(lowest.get(name, math.inf), float(row["psnr"]))
        about = {"prompt": text(clip.get("prompt")) or "", "seed": whole(clip.get("seed"))}
        rows.append({"clip": str(clip["folder"]), "twin": str(twin["folder"]), "label": name, **about, **row})
    if listener is not None:
        listener("quality", len(both), len(both))
    groups = [_group([row for row in rows if row["label"] == name]) for name in sorted({row["label"] for row in rows})]
    rows.sort(key=lambda row: (float(row["psnr"]), row["clip"]))
    return {"missing": None, "pairs": len(both), "without": without, "failed": failed, "groups": groups, "clips": rows}


def _row(folder: RenderFolder, clip: Clip, twin: Clip, measured: Measured, *, worst: float) -> dict[str, Any]:
    """Measurements of a pair; with a picture if it is worse than ``worst``, dB."""
    facts = [_VERSION, [stamp(folder, one["folder"], one) for one in (clip, twin)]]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    known = measured.known.get(key)
    if known is None or (float(known["psnr"]) < worst and not known.get("picture")):
        with lent(folder, clip["folder"], clip) as path, lent(folder, twin["folder"], twin) as reference:
            try:
                known = {"key": key, **_measure(path, reference, frames=whole(clip["output"].get("frames")) or 0)}
            except _FAULTS as error:  # the copies' places say nothing to anybody
                said = str(error).replace(str(path), clip["folder"]).replace(str(reference), twin["folder"])
                raise ValueError(said or type(error).__name__) from None
        if not float(known["psnr"]) < worst:
            known.pop("picture")
        measured.add(known)
    return {name: value for name, value in known.items() if name in ("psnr", "ssim", "picture")}


def _measure(path: Path, reference: Path, *, frames: int) -> dict[str, Any]:
    """PSNR and SSIM of a clip, means over frames, and a picture of it and its twin; never more than a few in memory."""
    import torch

    from videoaccel.eval.fidelity import WINDOW, frame_psnr, frame_ssim, mean_psnr

    psnr: list[float] = []
    ssim: list[float] = []
    shown = set(evenly_spaced(frames, FRAMES)) if frames else set()
    kept: tuple[list[Frames], list[Frames]] = ([], [])
    for a, b in _chunks(path, reference):
        if len(psnr) + len(a) > frames:
            raise ValueError(f"{path} has more frames than the {frames} that its sidecar says")
        for number in sorted(shown & set(range(len(psnr), len(psnr) + len(a)))):
            kept[0].append(a[number - len(psnr)])
            kept[1].append(b[number - len(psnr)])
        clip, wanted = torch.from_numpy(a), torch.from_numpy(b)
        psnr += frame_psnr(clip, wanted).tolist()
        ssim += frame_ssim(clip, wanted).tolist() if min(a.shape[1:3]) >= WINDOW else []
    picture = base64.b64encode(strip(np.stack(kept[0]), np.stack(kept[1]))).decode()
    return {"psnr": mean_psnr(psnr), "ssim": sum(ssim) / len(ssim) if ssim else None, "picture": picture}


def _chunks(path: Path, reference: Path) -> Iterator[tuple[Frames, Frames]]:
    """Frames of both clips [t, H, W, 3], a few at a time."""
    with open_clip(path) as clip, open_clip(reference) as wanted:
        both = zip_longest(clip.frames, wanted.frames)
        while part := list(islice(both, _CHUNK)):
            if any(a is None or b is None for a, b in part):
                raise ValueError(f"{path} and its exact twin have other numbers of frames")
            if any(a.shape != b.shape for a, b in part):
                raise ValueError(f"{path} and its exact twin have other sizes")
            yield np.stack([a for a, _ in part]), np.stack([b for _, b in part])


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and worst of the clips of one label."""
    from videoaccel.eval.fidelity import mean_psnr

    psnr = [float(row["psnr"]) for row in rows]
    ssim = [row["ssim"] for row in rows if row["ssim"] is not None]
    worst = min(rows, key=lambda row: (float(row["psnr"]), row["clip"]))
    return {
        "label": rows[0]["label"], "clips": len(rows), "equal": psnr.count(math.inf), "psnr": mean_psnr(psnr),
        "worst_psnr": min(psnr), "ssim": sum(ssim) / len(ssim) if ssim else None, "worst_ssim": min(ssim, default=None),
        "worst": worst["clip"],
    }  # fmt: skip
