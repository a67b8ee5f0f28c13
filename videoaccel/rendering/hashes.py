"""Hashes of large files, kept beside the clips so that a model is not read through again at every start."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from videoaccel.jobs.sidecar import file_hash
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.said import MIB, mapping, read_said

_FILE = "hashes.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Hashes:
    """sha256 of files, known again by path, size and time of change.

    Attributes:
        folder: Where they are kept.
    """

    folder: Inside
    _known: dict[str, list[object]] = field(default_factory=dict)
    _changed: bool = False

    def __post_init__(self) -> None:
        self._known = dict(mapping(read_said(self.folder, _FILE, limit=64 * MIB)))

    def __call__(self, path: Path) -> str:
        """The hash of a file, or of a folder.

        Raises:
            OSError: It cannot be read.
        """
        if path.is_dir():
            return file_hash(path)
        stat, name = path.stat(), str(path.absolute())
        known = self._known.get(name)
        if not (
            isinstance(known, list)
            and known[:2] == [stat.st_size, stat.st_mtime_ns]
            and _SHA256.fullmatch(str(known[-1]))
        ):
            known = [stat.st_size, stat.st_mtime_ns, file_hash(path)]
            self._known[name], self._changed = known, True
        return str(known[-1])

    def save(self) -> None:
        """Keep them for the next start; of several workers the last one's are kept. A full disk is no failure here."""
        if self._changed:
            with suppress(OSError):
                self.folder.write(_FILE, json.dumps(self._known).encode())
                self._changed = False
