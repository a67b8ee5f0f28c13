"""Following what workers write down, as they write it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from videoaccel.rendering.inside import Inside
from videoaccel.rendering.manifest import read_row

_PIECE = 16 << 20  # bytes of a file that are read in one look, at most


@dataclass
class Follower:
    """Reads what is new in manifests.

    Attributes:
        folder: Where they are.
    """

    folder: Inside
    _read: dict[str, int] = field(default_factory=dict)

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last look; those that are not understood are passed over."""
        for name in self.folder.names():
            if name.endswith(".jsonl"):
                with suppress(OSError):
                    yield from filter(None, map(read_row, self._fresh(name)))

    def _fresh(self, name: str) -> list[bytes]:
        begin = self._read.get(name, 0)
        with self.folder.reading(name) as file:
            file.seek(begin)
            data = file.read(_PIECE)
        whole = data[: data.rfind(b"\n") + 1]
        # A line that fills a whole piece is nobody's.
        self._read[name] = begin + (len(whole) or (len(data) if len(data) == _PIECE else 0))
        return whole.split(b"\n")[:-1]
