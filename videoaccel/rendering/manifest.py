"""What happened to every job, in JSON lines that only grow and can be read at any time.

Each worker has a file of its own: appends of several machines to one file may overwrite each other on a network disk.
Times are of the writer's wall clock and for people to read; nothing is decided by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from videoaccel.common.plain_json import parse_json
from videoaccel.rendering.inside import Inside, is_identity, is_worker
from videoaccel.rendering.said import PassedOver, number, text, whole

EVENTS = (
    "claimed", "taken", "done", "there", "failed", "gave_up", "released", "cancelled", "memory", "paused", "resumed",
    "started", "ended", "lost",
)  # fmt: skip
"""What can happen. ``taken`` is a claim on a dead worker's job, ``there`` a clip that another had finished first;
``lost`` is said by a worker that had stood still so long that its job was taken."""

_NAMED = {"name": text, "job": lambda value: value if is_identity(value) else None}
_NEEDED: Mapping[str, Mapping[str, Callable[[object], Any]]] = MappingProxyType(
    {
        "claimed": {**_NAMED, "number": whole},
        "taken": {**_NAMED, "dead": lambda value: value if value == "" or is_worker(value) else None},
        "done": {**_NAMED, "seconds": number},
        "there": {**_NAMED, "seconds": number},
        "failed": {**_NAMED, "number": whole, "error": text},
        "gave_up": {**_NAMED, "error": text},
        "memory": {**_NAMED, "step": text, "because": text},
        "paused": {"why": text},
        "resumed": {"seconds": number},
        **dict.fromkeys(("released", "cancelled", "lost"), _NAMED),
    }
)
"""What a row of each kind holds besides, and how it is read."""

_ROW = 1 << 20  # bytes; a batch of thousands of jobs has no more


class Manifest:
    """The file of one worker.

    Args:
        folder: Where manifests are.
        worker: Its name.
    """

    def __init__(self, folder: Inside, worker: str) -> None:
        self.folder, self.name, self.worker = folder, f"{worker}.jsonl", worker

    def begun(self) -> bool:
        """Whether anything was written."""
        return self.folder.exists(self.name)

    def add(self, event: str, **fields: Any) -> None:
        """Append one line, whole or not at all.

        Raises:
            OSError: The disk is full, or the folder read-only.
        """
        assert event in EVENTS, event
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "worker": self.worker, "event": event, **fields}, ensure_ascii=False)
        self.folder.append(self.name, f"{line}\n".encode(errors="replace"))


def read_row(line: bytes) -> dict[str, Any] | None:
    """One line, with what its kind needs, in the types that it needs them; None if that is not what it is."""
    try:
        row = parse_json(line) if len(line) <= _ROW else None
    except ValueError:
        return None
    if not isinstance(row, dict) or row.get("event") not in EVENTS or not is_worker(row.get("worker")):
        return None
    with suppress(ValueError, TypeError):
        if datetime.fromisoformat(row.get("time", "")).tzinfo is not None:
            needed = {name: read(row.get(name)) for name, read in _NEEDED.get(row["event"], {}).items()}
            return None if None in needed.values() else {**row, **needed}
    return None


def read_manifests(folder: Inside, *, passed: PassedOver | None = None) -> Iterator[dict[str, Any]]:
    """All lines of all workers, in the order of their times; a line that is being written is left out.

    Args:
        folder: Where manifests are.
        passed: Counts lines that are not understood.
    """
    rows = []
    for name in folder.names():
        for line in _lines(folder, name) if name.endswith(".jsonl") else ():
            row = read_row(line)
            if row is not None:
                rows.append(row)
            elif passed is not None and line.strip():
                passed.add(f"manifest/{name}")
    return iter(sorted(rows, key=lambda row: datetime.fromisoformat(row["time"])))


def _lines(folder: Inside, name: str) -> Iterator[bytes]:
    with suppress(OSError), folder.reading(name) as file:
        while line := file.readline(_ROW + 1):
            if line.endswith(b"\n"):
                yield line
