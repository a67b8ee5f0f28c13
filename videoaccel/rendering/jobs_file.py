"""Reading job files: JSON lines, CSV, YAML, or one prompt a line. Every bad line is told, with its number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from videoaccel.common.plain_json import parse_json
from videoaccel.common.reading import half_letter, lines_of, parse_yaml, read_text
from videoaccel.common.wording import counted
from videoaccel.settings.generate import GenerateSettings

SUFFIXES = (".jsonl", ".csv", ".yaml", ".yml", ".txt")
"""What a job file's name may end in."""

DEFAULTS, JOBS = "defaults", "jobs"
"""Keys of a YAML file that holds more than a list of jobs."""


class Line(NamedTuple):
    """One entry of a job file.

    Attributes:
        number: Line on which it begins, counted from 1.
        values: By field, as written.
    """

    number: int
    values: Mapping[str, Any]


class BadJobsError(ValueError):
    """A job file has lines that cannot be rendered; nothing was.

    Attributes:
        problems: One sentence each, with the number of its line.
    """

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(self.problems[:3])
        more = f"; and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        super().__init__(f"{path}: {counted(len(self.problems), 'problem')}, so nothing is rendered: {shown}{more}")


class JobsFile(NamedTuple):
    """What a job file holds.

    Attributes:
        lines: Those that could be read.
        problems: One sentence for each that could not.
        defaults: Settings for all of them (YAML only).
    """

    lines: list[Line]
    problems: list[str]
    defaults: Mapping[str, Any]


def read_jobs(path: Path) -> JobsFile:
    """Read a job file by the ending of its name.

    Raises:
        ValueError: The ending is unknown, it is not text in UTF-8, or nothing in it can be made out.
        OSError: It cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}, which says how its jobs are written")
    text = read_text(path)
    defaults: Mapping[str, Any] = {}
    problems: list[str] = []
    if path.suffix.lower() in (".yaml", ".yml"):
        found, defaults = _yaml(text, path)
    else:
        readers = {".jsonl": _jsonl, ".csv": _csv, ".txt": _txt}
        found = readers[path.suffix.lower()](text)
    lines: list[Line] = []
    for number, entry in found:
        if isinstance(entry, ValueError):
            problems.append(f"line {number}: {entry}")
        elif not isinstance(entry, Mapping) or not all(isinstance(name, str) for name in entry):
            problems.append(f"line {number}: a job is names with values, got {_short(entry)}")
        elif odd := half_letter(entry):
            problems.append(f"line {number}: holds {odd}, half of a letter, which no file can hold")
        else:
            lines.append(Line(number, entry))
    if not (lines or problems):
        raise ValueError(f"{path} holds no job")
    return JobsFile(lines, problems, defaults)


_Entries = Iterator[tuple[int, Any]]


def _jsonl(text: str) -> _Entries:
    # Not splitlines(): JSON may hold U+2028, which is no end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse_json(line, object_pairs_hook=_unique, parse_constant=_no_number)
            except json.JSONDecodeError as error:
                yield number, ValueError(f"not valid JSON: {error.msg.lower()} (column {error.colno})")
            except ValueError as error:
                yield number, error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON knows")


def _txt(text: str) -> _Entries:
    for number, line in enumerate(lines_of(text), start=1):
        if line and not line.startswith("#"):
            yield number, {"prompt": line}


def _csv(text: str) -> _Entries:
    """Cells are YAML values, so that numbers, lists and sweeps can stand in them; texts stay as they are."""
    csv.field_size_limit(1 << 24)
    rows = csv.reader(io.StringIO(text), strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, ValueError(f"not valid CSV: {error}")
            return
        number, start = start, rows.line_num + 1
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = [cell.strip() for cell in row]
            if problem := _header_problem(header):
                yield number, ValueError(problem)
                return
            if twice := next((name for name in header if header.count(name) > 1), None):
                yield number, ValueError(f"the column {twice!r} stands there twice")
                return
        elif len(row) > len(header):
            yield number, ValueError(f"{counted(len(row), 'cell')} for {counted(len(header), 'column')}")
        else:
            yield number, _cells(header, row)


def _header_problem(header: Sequence[str]) -> str | None:
    """What spreadsheets of other countries, and other tools, write instead of this header."""
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            return f"the cells of {header[0]!r} are separated by {name}; write commas between them"
    names = ("name", *GenerateSettings.model_fields)
    if wrong := next((cell for cell in header if cell not in names and cell.lower() in names), None):
        return f"the column {wrong!r} is called {wrong.lower()!r}, in small letters"
    return None


def _cells(header: Sequence[str], row: Sequence[str]) -> Any:
    values: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=False):
        if not cell.strip():
            continue
        try:
            values[name] = cell.strip() if name in ("prompt", "negative_prompt", "name") else parse_yaml(cell)
        except ValueError as error:
            return ValueError(f"{name}: {cell!r} is not a value ({error}); put quotes around a text")
    return values


def _yaml(text: str, path: Path) -> tuple[_Entries, Mapping[str, Any]]:
    try:
        data, root = parse_yaml(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    defaults: Any = {}
    if isinstance(data, dict):
        if other := [name for name in data if name not in (DEFAULTS, JOBS)]:
            raise ValueError(f"{path}: {other[0]!r} has no place beside {JOBS} and {DEFAULTS}")
        assert isinstance(root, yaml.MappingNode)
        defaults = data.get(DEFAULTS) or {}
        root = next((node for key, node in root.value if key.value == JOBS), None)
        data = data.get(JOBS)
    if not isinstance(defaults, dict):
        raise ValueError(f"{path}: {DEFAULTS} must hold names with values, got {_short(defaults)}")
    if data is None:
        return iter(()), defaults
    if not isinstance(data, list) or not isinstance(root, yaml.SequenceNode):
        raise ValueError(f"{path} must hold a list of jobs, or {JOBS} with one; got {_short(data)}")
    numbers = [node.start_mark.line + 1 for node in root.value]
    return zip(numbers, ({"prompt": item} if isinstance(item, str) else item for item in data), strict=True), defaults


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
