"""What a report says, as plain data: gathered from results, with nothing estimated that was not measured."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videoaccel.common.stages import Listener
from videoaccel.common.wording import counted
from videoaccel.comparison.values import CONTROLS, EXACT, OFF
from videoaccel.comparison.worst import FOLDER, file_name
from videoaccel.rendering.state import clips_per_hour
from videoaccel.rendering.twins import method_told
from videoaccel.reporting.read import Source
from videoaccel.reporting.twins import HOW as TWINS
from videoaccel.reporting.twins import Measured, twins

FORMAT = "videoaccel-report-1"
WORST = 6
"""Settings of which the worst clip is shown."""

STAGES = ("text", "load", "check", "references", "prepare", "compile", "denoise", "decode", "write")
"""Order of stages."""

_ONCE = ("text", "load", "check", "compile")  # paid once for many clips

HOW = {
    "compare": [
        "Speed: denoising alone, in one process with one loaded model; every run is divided into the exact run of its "
        "own round, all settings take turns in each round. Medians; thin lines are quartiles.",
        "Quality: PSNR and SSIM of decoded frames against the exact clip of the same prompt and seed, averaged over "
        "frames, then clips. Equal clips have no finite PSNR and stand on no curve.",
        "FLOPs: counted over what each run did, attention included.",
        "Controls: fewer_steps simply runs fewer steps; fixed_linear computes every few steps and draws straight lines "
        "between. A method that does not beat them is not worth its while.",
    ],
    "render": [
        "Stages: wall-clock seconds from each clip's sidecar, median and quartiles; loading is paid once by a worker.",
        "Throughput: each worker's finished clips over the time between its first and last event, by its own clock.",
        "Memory: the most that a GPU had allocated during a clip; on a CPU the process's largest resident size so far.",
    ],
    "evaluate": ["Scores: as videoaccel evaluate wrote them."],
    "prior": ["Errors: calibrated means of videoaccel calibrate, at the smallest age or gap of each table."],
}  # fmt: skip
"""How numbers were measured, by kind of result."""


def gather(
    sources: Sequence[Source], *, measured: Measured | None = None, listener: Listener | None = None
) -> dict[str, Any]:
    """Everything that a report shows.

    Args:
        sources: Results.
        measured: Where quality of rendered clips against their exact twins is kept; None measures none.
        listener: Hears of what is measured.

    Raises:
        ValueError: There is no source.
    """
    if not sources:
        raise ValueError("a report needs at least one result")
    kinds = list(dict.fromkeys(source.kind for source in sources))
    renders = [_render(source, measured, listener) for source in sources if source.kind == "render"]
    how = [sentence for kind in kinds for sentence in HOW[kind]]
    return {
        "format": FORMAT,
        "sources": [{"path": str(source.path), "kind": source.kind} for source in sources],
        "comparisons": [_comparison(source) for source in sources if source.kind == "compare"],
        "renders": renders,
        "evaluations": [
            {"path": str(source.path), **source.results} for source in sources if source.kind == "evaluate"
        ],
        "heat_maps": sorted(
            (found for source in sources for found in _heat_maps(source)), key=lambda one: one["again"]
        ),
        "scaling": _scaling(sources),
        "machines": _machines(sources),
        "how": [*how, *([TWINS] if any((render["quality"] or {}).get("clips") for render in renders) else [])],
    }


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, by rising first value.

    >>> pareto([(1.5, 40.0), (2.0, 30.0), (1.8, 25.0), (1.2, 35.0)])
    [(1.5, 40.0), (2.0, 30.0)]
    """
    best = -math.inf
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), reverse=True):
        if y > best:
            front.append((x, y))
            best = y
    return front[::-1]


def _comparison(source: Source) -> dict[str, Any]:
    data = source.results
    rows = [dict(row) for row in data["rows"]]
    for row in rows:
        row["control"] = row["method"] in CONTROLS
    return {
        "path": str(source.path),
        "model": data.get("model"),
        "title": data.get("title"),
        "holds": data["holds"],
        "command": data.get("command"),
        "rows": rows,
        "at_speedup": data.get("at_speedup", []),
        "worst": list(_worst(source, rows)),
    }


def _worst(source: Source, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each method's setting nearest to twice as fast the worst clip, the worst methods first."""
    folder = (source.path if source.path.is_dir() else source.path.parent) / FOLDER
    quality: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in source.rows:
        if row["kind"] == "quality" and "error" not in row:
            quality.setdefault((row["method"], row["setting"]), []).append(row)
    chosen: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        speedup = row.get("speedup_latency") or row.get("speedup_flops")
        if row["method"] in (EXACT, OFF) or row["error"] or speedup is None:
            continue
        now = chosen.get(row["method"])
        if now is None or abs(speedup - 2) < abs((now.get("speedup_latency") or now["speedup_flops"]) - 2):
            chosen[row["method"]] = row
    found = []
    for row in chosen.values():
        key, path = (row["method"], row["setting"]), folder / file_name(row["method"], row["setting"])
        if key in quality and path.is_file():
            worst = min(quality[key], key=lambda one: float(one["psnr"]))
            found.append((float(worst["psnr"]), row, worst, path))
    for psnr, row, worst, path in sorted(found, key=lambda one: one[0])[:WORST]:
        yield {
            "method": row["method"], "setting": row["setting"], "prompt": worst["prompt"], "seed": worst["seed"],
            "psnr": psnr, "ssim": worst["ssim"], "speedup": row.get("speedup_latency"),
            "picture": _inline(path, "image/jpeg"),
        }  # fmt: skip


def _render(source: Source, measured: Measured | None, listener: Listener | None) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for clip in source.clips:
        groups.setdefault(_label(clip), []).append(clip)
    return {
        "path": str(source.path),
        "clips": len(source.clips),
        "passed": source.passed,
        "groups": [_group(label, clips) for label, clips in sorted(groups.items())],
        "throughput": _throughput(source.events),
        "quality": twins(source.path, source.clips, _label, measured=measured, listener=listener) if measured else None,
        "failed": [
            {"name": row.get("name"), "error": row.get("error")} for row in source.events if row["event"] == "gave_up"
        ],
    }


def _label(clip: Mapping[str, Any]) -> str:
    s, ranks = clip["settings"], _ranks(clip)
    more = f", {ranks} ranks" if ranks > 1 else ""
    return f"{method_told(clip)}: {s['size']}, {counted(s['frames'], 'frame')}, {counted(s['steps'], 'step')}{more}"


def _group(label: str, clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for name in STAGES if any(name in clip["seconds"] for clip in clips)]
    names += sorted({name for clip in clips for name in clip["seconds"]} - set(names))
    stages = {name: _spread([clip["seconds"].get(name, 0.0) for clip in clips]) for name in names}
    per_clip = [sum(took for name, took in clip["seconds"].items() if name not in _ONCE) for clip in clips]
    memory = [clip["peak_memory_bytes"] for clip in clips if clip.get("peak_memory_bytes")]
    taken = sorted({step for clip in clips for step in clip.get("job", {}).get("memory", {}).get("steps", [])})
    return {
        "label": label,
        "clips": len(clips),
        "seconds": _spread(per_clip),
        "stages": stages,
        "peak_memory": max(memory, default=None),
        "memory_steps": taken,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) == 1:
        return {"low": values[0], "median": values[0], "high": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"low": low, "median": middle, "high": high}


def _throughput(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    workers = {str(row["worker"]) for row in events if row["event"] == "done"}
    counts = {event: sum(row["event"] == event for row in events) for event in ("failed", "taken", "memory", "paused")}
    return {"workers": len(workers), "clips_per_hour": clips_per_hour(events), "events": counts}


def _heat_maps(source: Source) -> Iterator[dict[str, Any]]:
    """Decisions of a comparison's settings on its first clip; errors of a prior."""
    seen: dict[str, int] = {}
    for row in source.rows:
        grid = row.get("grid")
        if grid and row["method"] not in (EXACT, OFF) and any(set(step) != {"c"} for step in grid["steps"]):
            title = f"{row['method']} {row['setting']}".strip()
            again = seen[row["method"]] = seen.get(row["method"], -1) + 1  # each method's first before any second
            yield {"kind": "actions", "title": title, "again": again, "sites": grid["sites"], "values": grid["steps"]}
    for name, table in source.tables.items():
        if (values := _step_by_site(table)) is not None:
            title = f"{source.path.name}: {name}"
            yield {"kind": "errors", "title": title, "again": 0, "sites": [], "values": values}


def _step_by_site(table: Any) -> list[list[float | None]] | None:
    """The first [N, M] of a table [N, M, ...] or [..., N, M]; None of one with fewer axes."""
    if not (isinstance(table, list) and table and isinstance(table[0], list) and table[0]):
        return None

    def first(value: Any) -> float | None:
        while isinstance(value, list):
            if not value:
                return None
            value = next((one for one in value if not (isinstance(one, float) and math.isnan(one))), value[0])
        return None if value is None or not math.isfinite(value) else float(value)

    return [[first(value) for value in row] for row in table]


def _scaling(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Seconds of denoising by the number of ranks, for settings that were rendered on several numbers."""
    found: dict[str, dict[int, list[float]]] = {}
    for source in sources:
        for clip in source.clips:
            length = counted(clip["settings"]["frames"], "frame")
            key = f"{_label(clip).partition(', ')[0]}, {length} on {clip['machine']['name']}"
            took = clip["seconds"].get("denoise")
            if took:
                found.setdefault(key, {}).setdefault(_ranks(clip), []).append(took)
    return [
        {
            "label": label,
            "points": [
                {"ranks": ranks, "seconds": statistics.median(took)} for ranks, took in sorted(by_ranks.items())
            ],
        }
        for label, by_ranks in sorted(found.items())
        if len(by_ranks) > 1
    ]


def _ranks(clip: Mapping[str, Any]) -> int:
    """Ranks that made a clip together; a sidecar that says nothing is of one."""
    ranks = clip.get("ranks", {})
    return int(ranks.get("guidance", 1) * ranks.get("sequence", 1))


def _machines(sources: Sequence[Source]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for source in sources:
        records = source.clips if source.kind == "render" else [source.results]
        for record in records:
            if isinstance(record.get("machine"), Mapping):
                one = {"machine": dict(record["machine"]), "versions": dict(record.get("versions") or {})}
                if one not in found:
                    found.append(one)
    return found


def _inline(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
