"""Finding results: folders of comparisons and renders, evaluations, priors; each becomes one source of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoaccel.common.plain_json import json_lines, read_json
from videoaccel.comparison.log import FORMAT, ROWS
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.manifest import read_manifests
from videoaccel.reporting.shapes import Clip, Compared, Evaluated, Measured, fits
from videoaccel.settings.config import validate

RESULTS = "results.json"


@dataclass(frozen=True)
class Source:
    """One result.

    Attributes:
        path: As it was given.
        kind: ``compare``, ``render``, ``evaluate`` or ``prior``.
        results: Of a comparison or an evaluation, its ``results.json``.
        rows: Of a comparison, every measurement.
        clips: Of a render, every sidecar, and its folder's name.
        passed: Of a render, clips whose sidecars are not understood.
        events: Of a render, its manifest.
        tables: Of a prior, its tables by name, as nested lists.
    """

    path: Path
    kind: str
    results: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    clips: Sequence[Mapping[str, Any]] = ()
    passed: int = 0
    events: Sequence[Mapping[str, Any]] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)


def read_source(path: Path) -> Source:
    """Find out what a path holds, and read it.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is no result; says what is.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return _prior(path)
    if path.is_dir() and RenderFolder(path).is_one():
        folder = RenderFolder(path)
        clips, passed = _sidecars(folder)
        if not clips:
            raise ValueError(f"{path} is a render without a finished clip; there is nothing to report yet")
        events = list(read_manifests(folder.manifest))
        return Source(path, "render", clips=clips, passed=passed, events=events)
    file = path / RESULTS if path.is_dir() else path
    data = _json(file)
    if isinstance(data, dict) and isinstance(data.get("rows"), list) and "holds" in data:
        validate(Compared, data, source=str(file))
        return Source(path, "compare", results=data, rows=list(_rows(file.parent / ROWS)))
    if isinstance(data, dict) and isinstance(data.get("scores"), list) and "not_run" in data:
        validate(Evaluated, data, source=str(file))
        return Source(path, "evaluate", results=data)
    raise ValueError(
        f"{path} is no result; a report takes folders of videoaccel compare and render, results.json of compare and "
        f"evaluate, and priors"
    )


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Measurements; a line that is being written is left out."""
    with suppress(FileNotFoundError):
        for row in json_lines(path):
            if isinstance(row, dict) and row.get("format", FORMAT) == FORMAT and fits(Measured, row):
                yield row


def _sidecars(folder: RenderFolder) -> tuple[list[dict[str, Any]], int]:
    """Those that are understood, and how many are not."""
    places = [path.name for path in folder.finished().values()]
    records = ((place, folder.record(place)) for place in places)
    found = [{**record, "folder": place} for place, record in records if fits(Clip, record)]
    return found, len(places) - len(found)


def _prior(path: Path) -> Source:
    from videoaccel.planning.prior import Prior  # torch

    prior = Prior.load(path)
    tables = {name: table.tolist() for name, table in prior.tables.items()}
    return Source(path, "prior", results={"setting": dict(prior.setting), "samples": prior.samples}, tables=tables)
