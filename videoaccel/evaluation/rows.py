"""Measuring clips, one row a clip and metric, and keeping the rows, so that a stopped evaluation goes on.

Every rank appends to a file of its own, ``rows-RANK.jsonl``; whoever starts anew reads all of them. A row is found
again by a key of everything that it depends on: bytes of both clips, prompt, metric, reader and networks' files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videoaccel.common.files import told
from videoaccel.common.plain_files import plain_file
from videoaccel.common.plain_json import json_lines, to_json
from videoaccel.eval.backbones import Backbones
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score
from videoaccel.eval.vbench import QUALITY, SEMANTIC
from videoaccel.evaluation.clips import SAMPLES, ClipFile, Reading

NOT_COUNTED = f"VBench counts samples 0 to {SAMPLES - 1} of its own prompts only"
_VERSION = 1  # of what metrics compute; a higher one measures all anew


@dataclass(frozen=True)
class Row:
    """What one metric says of one clip.

    Attributes:
        clip: Name of the clip.
        metric: Name of the metric.
        key: Of everything that it depends on.
        score: None where there is none.
        error: Why the clip could not be measured.
        reason: Why the metric is not defined for it.
    """

    clip: str
    metric: str
    key: str
    score: Score | None = None
    error: str | None = None
    reason: str | None = None


class RowFile:
    """Rows on disk.

    Args:
        folder: Where they are.
        rank: Whose file is written; all are read.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"rows-{rank}.jsonl"
        self.known: dict[str, Row] = {}
        for path in sorted(folder.glob("rows-*.jsonl")):
            for row in _read(path):
                self.known[row.key] = row

    def add(self, row: Row) -> None:
        """Append a row.

        Raises:
            OSError: The disk is full, or the folder read-only.
        """
        self.known[row.key] = row
        with told(self.path), open(self.path, "ab") as file:
            file.write(f"{to_json(_plain(row))}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def measure(
    clip: ClipFile, metrics: Mapping[str, ClipMetric], *, reading: Reading, backbones: Backbones, rows: RowFile
) -> Iterator[Row]:
    """Rows of a clip for all metrics, in their order; what is known already is not measured again.

    No fault of a clip is an exception: it is a row with an ``error``.
    """
    try:
        digests = [_digest(path) for path in (clip.path, clip.reference) if path is not None]
    except OSError as error:
        digests = [f"unreadable: {error}"]
    keys = {name: _key(clip, name, metric, digests, reading, backbones) for name, metric in metrics.items()}
    sample: Sample | str | None = None
    for name, metric in metrics.items():
        if keys[name] in rows.known:
            yield rows.known[keys[name]]
            continue
        if reason := _left_out(clip, name):
            yield Row(clip.name, name, keys[name], reason=reason)
            continue
        sample = sample or _sample(clip, reading, reference=any(m.needs_reference for m in metrics.values()))
        row = _row(clip, name, metric, keys[name], sample)
        rows.add(row)
        yield row


def _left_out(clip: ClipFile, name: str) -> str | None:
    if clip.dimensions is not None and (name in QUALITY or name in SEMANTIC) and name not in clip.dimensions:
        return "the prompt was written for other dimensions" if clip.dimensions else NOT_COUNTED
    return None


def _sample(clip: ClipFile, reading: Reading, *, reference: bool) -> Sample | str:
    """The clip in memory, or why it is not."""
    try:
        frames, fps = reading(clip.path)
        other = reading(clip.reference)[0] if reference and clip.reference else None
    except (OSError, ValueError, MemoryError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    wanted = None if other is None else torch.from_numpy(other)
    return Sample(clip.name, torch.from_numpy(frames), fps, wanted, clip.prompt, clip.about)


def _row(clip: ClipFile, name: str, metric: ClipMetric, key: str, sample: Sample | str) -> Row:
    if isinstance(sample, str):
        return Row(clip.name, name, key, error=sample)
    if metric.needs_reference and sample.reference is None:
        return Row(clip.name, name, key, error="there is no reference clip of this name")
    try:
        with torch.inference_mode():
            score = metric.measure(sample)
    except NotApplicable as reason:
        return Row(clip.name, name, key, reason=str(reason))
    except (ValueError, RuntimeError) as error:  # torch's out-of-memory is a RuntimeError
        return Row(clip.name, name, key, error=" ".join(str(error).split()))
    if score.value != score.value:
        return Row(clip.name, name, key, error="the result is not a number")
    return Row(clip.name, name, key, score=score)


def _key(
    clip: ClipFile, name: str, metric: ClipMetric, digests: Sequence[str], reading: Reading, backbones: Backbones
) -> str:
    files = [backbones.find(backbone).stat() for backbone in metric.requires]
    parts = {
        "version": _VERSION, "metric": name, "name": clip.name, "clips": digests if metric.needs_reference else
        digests[:1], "prompt": clip.prompt, "about": clip.about, "dimensions": clip.dimensions, **reading.facts(),
        "backbones": [(stat.st_size, stat.st_mtime_ns) for stat in files], "device": str(metric.device),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            found.update(file.name.encode())
        if file.is_file():
            with plain_file(file) as data:
                while block := data.read(1 << 20):
                    found.update(block)
    return found.hexdigest()


def _plain(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {"clip": row.clip, "metric": row.metric, "key": row.key}
    if row.score is not None:
        score = row.score
        plain["score"] = {
            "value": score.value, "weight": score.weight, "counted": score.counted, "frames": score.frames,
            "details": dict(score.details),
        }  # fmt: skip
    return plain | {name: value for name, value in (("error", row.error), ("reason", row.reason)) if value is not None}


def _read(path: Path) -> Iterable[Row]:
    for plain in json_lines(path):
        try:
            score = plain.get("score")
            clip, metric, key = plain["clip"], plain["metric"], plain["key"]
            if all(isinstance(text, str) for text in (clip, metric, key)):
                yield Row(clip, metric, key, _score(score) if score else None, plain.get("error"), plain.get("reason"))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
            continue  # measured anew; a line without an end was cut off by a crash


def _score(plain: Mapping[str, Any]) -> Score:
    frames = tuple(float(value) for value in plain["frames"])
    counted = None if plain["counted"] is None else float(plain["counted"])
    return Score(float(plain["value"]), float(plain["weight"]), counted, frames, dict(plain["details"]))
