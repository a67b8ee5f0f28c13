"""What a comparison has measured so far, in a file that it goes on from.

The first line of ``rows.jsonl`` says for what model, setting and machine the rows hold; every other line is one
measurement, written as soon as it is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videoaccel.common.alone import LOCK_SUFFIX, alone, check_alone
from videoaccel.common.files import check_creatable, check_no_dir, told
from videoaccel.common.files import check_folder as check_parent
from videoaccel.common.plain_files import plain_file, read_plain
from videoaccel.common.plain_json import LARGEST_ROWS, parse_json, to_json
from videoaccel.comparison.row_shapes import is_row
from videoaccel.settings.tensor_heads import NETWORK

FORMAT = "videoaccel-comparison-1"
ROWS = "rows.jsonl"
RESULTS, TABLE, PICTURE, PANELS = "results.json", "results.csv", "speed-quality.png", "methods.png"
"""What is written into a comparison's folder at its end."""
WORST, CLIPS = "worst", "clips"
"""Its folders of pictures, and of clips where they are kept."""

Row = Mapping[str, Any]
Key = tuple[Any, ...]

KEY = ("kind", "method", "setting", "prior", "prompt", "seed", "repeat")
"""Fields that tell measurements apart."""


def key_of(row: Row) -> Key:
    """What a row measures."""
    return tuple(row.get(name) for name in KEY)


class Log:
    """Rows of a comparison, on disk and in memory.

    Args:
        folder: Where they are; `open_log` makes it, and sees to it that nobody else writes there.
        holds: What must be the same for all rows.
        about: What else the first line says: command, versions, date.

    Raises:
        ValueError: The folder holds rows of another comparison (says in what it differs).
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, *, holds: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.path = folder / ROWS
        self.rows: dict[Key, Row] = {}
        if not self.path.exists():
            self._write({"kind": "header", "format": FORMAT, "holds": holds, **about})
            return
        first, *rows = self._read()
        _check(first, holds, folder)
        for row in rows:
            if row.get("kind") != "resumed":
                self.rows.setdefault(key_of(row), row)
        self._write({"kind": "resumed", **about})

    def __contains__(self, row: Row) -> bool:
        return key_of(row) in self.rows

    def add(self, row: Row) -> None:
        """Append one measurement.

        Raises:
            OSError: The disk is full, or the folder read-only.
        """
        self.rows[key_of(row)] = row
        self._write(row)

    def get(self, row: Row) -> Row | None:
        """The measurement that has this row's key, if it was made."""
        return self.rows.get(key_of(row))

    def of(self, **fields: Any) -> list[Row]:
        """Rows with these values, in no order."""
        return [row for row in self.rows.values() if all(row.get(name) == value for name, value in fields.items())]

    def _write(self, row: Row) -> None:
        with told(self.path), open(self.path, "ab") as file:
            file.write(f"{to_json(row)}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[dict[str, Any]]:
        data = read_plain(self.path, largest=LARGEST_ROWS)
        whole = data[: data.rfind(b"\n") + 1]
        rows = list(_parse(whole, self.path))
        if not rows or rows[0].get("format") != FORMAT:
            raise ValueError(f"{self.path} is no comparison of this version (format {FORMAT}); choose a new folder")
        if len(whole) < len(data):  # the process was killed in the middle of a line
            with told(self.path):
                os.truncate(self.path, len(whole))
        return rows


@contextmanager
def open_log(folder: Path, *, holds: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[Log]:
    """The log of a folder, for one comparison at a time: a second would measure the same, and disturb what is timed.

    Raises:
        BusyError: Another process compares there.
        ValueError: As `Log`; or the folder holds other files.
        OSError: It cannot be made or written.
    """
    check_folder(folder)
    with told(folder):
        folder.mkdir(exist_ok=True)
    with alone(folder / ROWS):
        yield Log(folder, holds=holds, about=about)


def check_place(folder: Path) -> None:
    """`check_folder` before anything is loaded, and whether another process compares there.

    Raises:
        ValueError: It holds something else.
        OSError: It is none, cannot be written, or is at work on.
    """
    check_parent(folder)
    check_folder(folder)
    if folder.exists():
        check_alone(folder / ROWS)


def check_holds(folder: Path, known: Mapping[str, Any]) -> None:
    """Make sure that what a folder holds was measured on such clips, as far as settings say that.

    Args:
        folder: Of the comparison; it need not be there.
        known: Some of what must be the same for all rows.

    Raises:
        ValueError: It was measured on others.
        OSError: It cannot be read.
    """
    if (path := folder / ROWS).exists():
        with plain_file(path) as file:
            first = next(_parse(file.readline(), path), {})
        was = first.get("holds")
        if isinstance(was, dict):  # what is damaged is said where it is read whole
            _check({"holds": {name: was.get(name) for name in known}}, known, folder)


def check_folder(folder: Path) -> None:
    """Make sure that a comparison may be written to a folder: it is new, empty, or holds one already.

    Raises:
        ValueError: It holds something else.
        OSError: It is none, or cannot be written.
    """
    if not folder.exists():
        check_creatable(folder)
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write a comparison to {folder}: it is not a folder")
    others = [path for path in folder.iterdir() if path.suffix != LOCK_SUFFIX]
    if not (folder / ROWS).exists() and (other := min(others, default=None)):
        raise ValueError(
            f"{folder} holds {other.name!r} but no {ROWS}, so there is no comparison to go on with; choose a new folder"
        )
    check_creatable(folder / ROWS)
    for name in (ROWS, RESULTS, TABLE, PICTURE, PANELS):
        check_no_dir(folder / name)
    for name, what in ((WORST, "pictures of the worst clips"), (CLIPS, "clips")):
        if (inner := folder / name).exists() and not inner.is_dir():
            raise NotADirectoryError(f"{inner} is no folder; {what} belong there: remove it")


def _parse(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not (number == 1 or row.get("kind") == "resumed" or is_row(row)):
            raise ValueError(f"{path}, line {number} is damaged; delete the line to measure anew what it held")
        yield row


def _check(first: Row, holds: Mapping[str, Any], folder: Path) -> None:
    was = first.get("holds")
    if not isinstance(was, dict):
        raise ValueError(f"{folder / ROWS} is damaged: its first line does not say for what its rows hold")
    now = json.loads(to_json(holds))
    if NETWORK not in was:  # what was measured before it was kept is gone on with
        now.pop(NETWORK, None)
    if differing := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
        told = ", ".join(f"{name} {_short(was.get(name))}, here {_short(now.get(name))}" for name in differing)
        raise ValueError(f"{folder} holds a comparison of another kind ({told}); choose a new folder")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
