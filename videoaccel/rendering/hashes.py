"""Hashes of large files, kept beside the clips so that a model is not read through again at every start."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from videoaccel.common.files import atomic_write_text
from videoaccel.jobs.sidecar import file_hash


@dataclass
class Hashes:
    """sha256 of files, known again by path, size and time of change.

    Attributes:
        path: Where they are kept.
    """

    path: Path
    _known: dict[str, list[object]] = field(default_factory=dict)
    _changed: bool = False

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self._known = found if isinstance(found, dict) else {}

    def __call__(self, path: Path) -> str:
        """The hash of a file, or of a folder.

        Raises:
            OSError: It cannot be read.
        """
        if path.is_dir():
            return file_hash(path)
        stat, name = path.stat(), str(path.absolute())
        known = self._known.get(name)
        if not (isinstance(known, list) and known[:2] == [stat.st_size, stat.st_mtime_ns]):
            known = [stat.st_size, stat.st_mtime_ns, file_hash(path)]
            self._known[name], self._changed = known, True
        return str(known[2])

    def save(self) -> None:
        """Keep them for the next start; of several workers the last one's are kept. A full disk is no failure here."""
        if self._changed:
            with suppress(OSError):
                atomic_write_text(self.path, json.dumps(self._known))
                self._changed = False
