"""What happened to every job, in JSON lines that only grow and can be read at any time.

Each worker has a file of its own: appends of several machines to one file may overwrite each other on a network disk.
Times are of the writer's wall clock and for people to read; nothing is decided by them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

EVENTS = (
    "claimed", "taken", "done", "there", "failed", "gave_up", "released", "cancelled", "memory", "paused", "resumed",
    "started", "ended",
)  # fmt: skip
"""What can happen. ``taken`` is a claim on a dead worker's job, ``there`` a clip that another had finished first."""


class Manifest:
    """The file of one worker.

    Args:
        folder: Where manifests are.
        worker: Its name.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.path, self.worker = folder / f"{worker}.jsonl", worker

    def add(self, event: str, **fields: Any) -> None:
        """Append one line, whole or not at all.

        Raises:
            OSError: The disk is full, or the folder read-only.
        """
        assert event in EVENTS, event
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "worker": self.worker, "event": event, **fields}, ensure_ascii=False)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            data = f"{line}\n".encode()
            try:
                while data:
                    data = data[os.write(handle, data) :]
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def read_manifests(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines of all workers, in the order of their times; a line that is being written is left out."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        with suppress(OSError):
            for line in path.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict) and row.get("event") in EVENTS:
                        rows.append(row)
    return iter(sorted(rows, key=lambda row: str(row.get("time"))))
