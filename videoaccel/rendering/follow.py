"""Following what workers write down, as they write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Follower:
    """Reads what is new in manifests.

    Attributes:
        folder: Where they are.
    """

    folder: Path
    _read: dict[Path, int] = field(default_factory=dict)

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last look."""
        for path in sorted(self.folder.glob("*.jsonl")):
            begin = self._read.get(path, 0)
            with suppress(OSError), path.open("rb") as file:
                file.seek(begin)
                data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._read[path] = begin + len(whole)
                for line in whole.splitlines():
                    with suppress(ValueError):
                        row = json.loads(line)
                        if isinstance(row, dict) and "event" in row:
                            yield row
