"""``report``: one page without a network from what was compared, evaluated and rendered; JSON and CSV beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from videoaccel.common.borders import csv_text, fill, for_page
from videoaccel.common.extras import need
from videoaccel.common.files import atomic_write_text, check_results_place
from videoaccel.common.home import expand
from videoaccel.common.plain_json import to_json
from videoaccel.common.stages import Listener
from videoaccel.common.wording import counted
from videoaccel.reporting.data import gather
from videoaccel.reporting.read import read_source
from videoaccel.reporting.twins import MEASURED, Measured

PAGE, DATA, TABLE = "report.html", "report.json", "report.csv"

_HEAT_MAPS = 12
_SHOWN_CLIPS, _SHOWN_FAILED = 100, 10  # of a render whose quality is measured
_COLUMNS = (
    ("method", "method"), ("setting", "setting"), ("speedup_latency", "times faster"),
    ("speedup_flops", "fewer FLOPs"), ("psnr", "PSNR, dB"), ("ssim", "SSIM"), ("worst_psnr", "worst PSNR, dB"),
    ("latency_s", "seconds"),
)  # fmt: skip
_REPLAYED = ("replayed", "as graphs")  # of comparisons on a GPU


def report(
    results: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    quality: bool = True,
    listener: Listener | None = None,
) -> list[Path]:
    """Write a report.

    Args:
        results: Folders of comparisons and renders, ``results.json`` of comparisons and evaluations, priors;
            one or several.
        out: Folder for ``report.html``, ``report.json`` and ``report.csv``; made if it is not there. What was measured
            of rendered clips is kept there in ``quality.jsonl``, known again by the sizes and times of their files.
        title: Of the page; by default it says what is in it.
        quality: Measure rendered clips by methods against their exact twins, which reads both.
        listener: Hears of what is measured.

    Returns:
        The files. Without matplotlib the page has tables and cards, but no curves, see `no_curves`.

    Raises:
        FileNotFoundError: A result is not there.
        ValueError: Something is no result.
        OSError: The folder cannot be written.
    """
    results = [results] if isinstance(results, str | Path) else results
    folder = expand(out)
    check_place(folder)
    sources = [read_source(expand(path)) for path in results]
    data = gather(sources, measured=Measured(folder) if quality else None, listener=listener)
    data["title"] = title or _title(data)
    page = make_page(data)
    folder.mkdir(exist_ok=True)
    found = [folder / PAGE, folder / DATA, folder / TABLE]
    atomic_write_text(found[0], page)
    atomic_write_text(found[1], f"{to_json(_without_pictures(data), indent=2)}\n")
    atomic_write_text(found[2], to_csv(data))
    return found


def check_place(folder: Path) -> None:
    """Make sure that a report can be written to a folder, before anything is read and measured.

    Raises:
        OSError: It cannot.
    """
    check_results_place(folder, (PAGE, DATA, TABLE, MEASURED), what="a report")


def no_curves() -> str | None:
    """Why a report has no curves; None if it has."""
    try:
        need("a report with curves", "matplotlib", "report")
    except ValueError as missing:
        return str(missing)
    return None


def _title(data: Mapping[str, Any]) -> str:
    if data["comparisons"]:
        return "Speed and quality"
    return "Renders" if data["renders"] else "Scores" if data["evaluations"] else "Calibrated errors"


def make_page(data: Mapping[str, Any]) -> str:
    """The page's text.

    Args:
        data: Of `videoaccel.reporting.data.gather`, with a title.
    """
    parts: list[str] = []
    missing = no_curves()
    drawn = {} if missing else _drawn(data)
    if missing:
        parts.append(f"<p>{_text(missing)}</p>")
    for number, one in enumerate(data["comparisons"]):
        figures = [drawn.get(f"speed{number}{by}", "") for by in ("latency", "flops")]
        parts.append(_section("Speed and quality", _subtitle(one), *figures, _methods(one)))
        if one["worst"]:
            cards = "".join(_worst(item) for item in one["worst"])
            parts.append(_section("Worst clips", _WORST, f'<div class="cards">{cards}</div>'))
    for one in data["evaluations"]:
        parts.append(_section("Scores", _text(one["path"]), _scores(one)))
    if data["renders"]:
        for one in data["renders"]:
            if one["quality"] is not None:
                parts.append(_section("Quality against exact twins", _text(one["path"]), *_twins(one["quality"])))
        parts.append(_section("Where the time goes", "", drawn.get("stages", ""), *map(_render, data["renders"])))
    parts.append(_section("Memory", "", drawn.get("memory", "")))
    if maps := [picture for salt, picture in drawn.items() if salt.startswith("heat")]:
        more = len(data["heat_maps"]) - len(maps)
        note = f"; {more} more are in {DATA}" if more else ""
        told = f"What each method did on the first clip, or calibrated errors{note}."
        parts.append(_section("Step by site", told, *maps))
    parts.append(_section("Scaling", "", drawn.get("scaling", "")))
    parts.append(_section("How it was measured", "", _list(data["how"])))
    parts.append(_section("Hardware and versions", "", *map(_machine, data["machines"])))
    parts.append(_section("Made from", "", _list([f"{one['kind']}: {one['path']}" for one in data["sources"]])))
    template = (files("videoaccel") / "assets" / "pages" / "report.html").read_text(encoding="utf-8")
    return fill(template, {"TITLE": _text(data["title"]), "BODY": "\n".join(filter(None, parts))})


def _drawn(data: Mapping[str, Any]) -> dict[str, str]:
    """Every curve as a part of the page, by the salt of its names; empty texts for what has no numbers."""
    from videoaccel.reporting.plots import heat_map, memory, scaling, speed_quality, stages

    found: dict[str, Mapping[str, str] | None] = {}
    for number, one in enumerate(data["comparisons"]):
        for by in ("latency", "flops"):
            found[f"speed{number}{by}"] = speed_quality(one, by=by, salt=f"speed{number}{by}")
    if data["renders"]:
        found["stages"] = stages(data["renders"], salt="stages")
    found["memory"] = memory(data, salt="memory")
    for number, one in enumerate(data["heat_maps"][:_HEAT_MAPS]):
        found[f"heat{number}"] = heat_map(one, salt=f"heat{number}")
    found["scaling"] = scaling(data["scaling"], salt="scaling")
    return {salt: _figure(picture) for salt, picture in found.items()}


def to_csv(data: Mapping[str, Any]) -> str:
    """One line a number: where from, what of, which, value."""
    rows: list[list[Any]] = [["source", "what", "quantity", "value"]]
    for one in data["comparisons"]:
        for row in one["rows"]:
            name = f"{row['method']} {row['setting']}".strip()
            plain = {key: value for key, value in row.items() if isinstance(value, int | float | str)}
            for key in ("error", *(key for key in plain if key not in ("method", "setting", "error", "control"))):
                if row.get(key) not in (None, ""):
                    rows.append([one["path"], name, key, row[key]])
    for one in data["renders"]:
        for group in one["groups"]:
            rows.append([one["path"], group["label"], "clips", group["clips"]])
            for stage, spread in {**group["stages"], "clip": group["seconds"]}.items():
                rows.extend([one["path"], group["label"], f"{stage}_s_{at}", took] for at, took in spread.items())
            rows.append([one["path"], group["label"], "peak_memory_bytes", group["peak_memory"]])
        rows.extend(_twin_numbers(one["path"], one["quality"] or {}))
    for one in data["evaluations"]:
        rows.extend([one["path"], "score", row["metric"], row["score"]] for row in one["scores"])
    for line in data["scaling"]:
        rows.extend(["", line["label"], f"denoise_s_{p['ranks']}_ranks", p["seconds"]] for p in line["points"])
    return csv_text(rows)


_WORST = (
    "Of every method the setting nearest to twice as fast, on the clip that it makes worst: exact above, the method "
    "below it, and four times their difference."
)


def _without_pictures(data: Mapping[str, Any]) -> dict[str, Any]:
    comparisons = [
        {**one, "worst": [_without(item, "picture") for item in one["worst"]]} for one in data["comparisons"]
    ]
    renders = [
        {**one, "quality": {**one["quality"], "clips": [_without(clip, "picture") for clip in one["quality"]["clips"]]}}
        if (one["quality"] or {}).get("clips")
        else one
        for one in data["renders"]
    ]
    return {**data, "comparisons": comparisons, "renders": renders}


def _without(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != name}


def _section(title: str, note: str, *body: str) -> str:
    """A section; nothing if there is nothing in it."""
    if not any(body):
        return ""
    told = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{_text(title)}</h2>{told}{''.join(body)}</section>"


def _figure(picture: Mapping[str, str] | None) -> str:
    if picture is None:
        return ""
    return f'<figure><div class="wide">{picture["wide"]}</div><div class="narrow">{picture["narrow"]}</div></figure>'


def _subtitle(one: Mapping[str, Any]) -> str:
    if one.get("title"):
        return _text(one["title"])
    holds = one["holds"]  # of a comparison that was made before there were titles
    height, width = holds["size"]
    told = (
        f"{one['model']}: {holds['frames']} frames of {height}x{width}, {holds['steps']} steps, guidance "
        f"{holds['guidance']:g}, {holds['dtype']}"
    )
    return _text(told)


def _methods(one: Mapping[str, Any]) -> str:
    columns = _COLUMNS if all(row.get("replayed") is None for row in one["rows"]) else (*_COLUMNS, _REPLAYED)
    head = "".join(f"<th>{_text(title)}</th>" for _, title in columns)
    lines = []
    for row in one["rows"]:
        cells = "".join(f"<td>{_number(row.get(name))}</td>" for name, _ in columns)
        mark = ' class="control"' if row.get("control") else ' class="error"' if row["error"] else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
        if row["error"]:
            lines.append(f'<tr class="error"><td colspan="{len(columns)}">{_text(row["error"])}</td></tr>')
        if row.get("coarser"):
            told = f"in a coarser form, for memory: {row['coarser']}"
            lines.append(f'<tr><td colspan="{len(columns)}">{_text(told)}</td></tr>')
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table class="methods">{body}</table></div>'


def _worst(item: Mapping[str, Any]) -> str:
    faster = f", {item['speedup']:.2f}x faster" if item["speedup"] else ""
    told = f"<b>{_text(item['method'])}</b> {_text(item['setting'])}{faster}: {_number(item['psnr'])} dB"
    return (
        f'<div class="card"><img src="{_text(item["picture"])}" alt="exact, {_text(item["method"])}, difference">'
        f"<p>{told}<br><span>{_text(item['prompt'])} (seed {_text(item['seed'])})</span></p></div>"
    )


def _twins(found: Mapping[str, Any]) -> list[str]:
    """Quality of a render: a table of settings, the worst clip of each, all clips."""
    told = (
        [f"{counted(found['without'], 'clip')} by a method without a finished exact twin"] if found["without"] else []
    )
    if found["missing"]:
        return [_list([f"{counted(found['pairs'], 'pair')}, not measured: {found['missing']}", *told])]
    if failed := found["failed"]:
        told += [f"{counted(len(failed), 'clip')} passed over, which could not be measured"]
        told += [f"{one['clip']}: {one['error']}" for one in failed[:_SHOWN_FAILED]]
        told += [f"and {len(failed) - _SHOWN_FAILED} more, in {DATA}"] if len(failed) > _SHOWN_FAILED else []
    by_place = {row["clip"]: row for row in found["clips"]}
    heads = ("settings", "clips", "equal", "PSNR, dB", "worst PSNR, dB", "SSIM", "worst SSIM")
    names = ("label", "clips", "equal", "psnr", "worst_psnr", "ssim", "worst_ssim")
    cards = "".join(
        _twin(by_place[group["worst"]]) for group in found["groups"] if "picture" in by_place[group["worst"]]
    )
    clips, more = found["clips"][:_SHOWN_CLIPS], len(found["clips"]) - _SHOWN_CLIPS
    title = f"{counted(len(found['clips']), 'clip')}, the worst first" + (
        f"; {more} more are in {TABLE}" if more > 0 else ""
    )
    each = _table(
        ("settings", "prompt", "seed", "PSNR, dB", "SSIM"), ("label", "prompt", "seed", "psnr", "ssim"), clips
    )
    return [
        _table(heads, names, found["groups"]) if clips else "",
        f'<div class="cards">{cards}</div>' if cards else "",
        f"<details><summary>{_text(title)}</summary>{each}</details>" if clips else "",
        _list(told),
    ]


def _twin(row: Mapping[str, Any]) -> str:
    ssim = "" if row["ssim"] is None else f", SSIM {_number(row['ssim'])}"
    return (
        f'<div class="card"><img src="data:image/jpeg;base64,{_text(row["picture"])}" alt="exact, method, difference">'
        f"<p><b>{_text(row['label'])}</b>, its worst clip: {_number(row['psnr'])} dB{ssim}<br>"
        f"<span>{_text(row['prompt'])} (seed {_text(row['seed'])})</span></p></div>"
    )


def _table(heads: Sequence[str], names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{_number(row[name])}</td>' for name in names)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _twin_numbers(path: Any, found: Mapping[str, Any]) -> Iterator[list[Any]]:
    for group in found.get("groups", ()):
        for name in ("equal", "psnr", "worst_psnr", "ssim", "worst_ssim"):
            yield [path, group["label"], name, group[name]]
    for row in found.get("clips", ()):
        yield from ([path, row["clip"], name, row[name]] for name in ("psnr", "ssim"))


def _render(one: Mapping[str, Any]) -> str:
    lines, saved = [], any(group["memory_steps"] for group in one["groups"])
    for group in one["groups"]:
        seconds, peak = group["seconds"], group["peak_memory"]
        cells = [
            _text(group["label"]), _text(group["clips"]), f"{seconds['median']:.2f}",
            f"{seconds['low']:.2f} to {seconds['high']:.2f}", "" if peak is None else f"{peak / 2**30:.2f}",
            *([_text(", ".join(group["memory_steps"]))] if saved else []),
        ]  # fmt: skip
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = ["settings", "clips", "seconds a clip", "quartiles", "peak, GiB", *(["memory saved by"] if saved else [])]
    head = "".join(f"<th>{title}</th>" for title in titles)
    rate, events = one["throughput"]["clips_per_hour"], one["throughput"]["events"]
    told = f"{counted(one['clips'], 'clip')} in {one['path']}"
    told += f"; {counted(one['passed'], 'clip')} passed over, whose sidecar is not understood" if one["passed"] else ""
    told += f"; {rate:.0f} an hour by {counted(one['throughput']['workers'], 'worker')}" if rate else ""
    told += "".join(f"; {count} times {event}" for event, count in events.items() if count)
    failed = _list([f"given up: {row['name']}: {row['error']}" for row in one["failed"]])
    return (
        f'<p>{_text(told)}</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{failed}"
    )


def _scores(one: Mapping[str, Any]) -> str:
    head = "<tr><th>metric</th><th>score</th><th>clips</th><th>failed</th><th>worst clip</th></tr>"
    lines = "".join(_score(row) for row in one["scores"])
    totals = one.get("vbench") or {}
    told = [f"{name}: {value:.4f}" for name, value in totals.items() if isinstance(value, float)]
    told += [f"no total: {totals['withheld']}"] if totals.get("withheld") else []
    told += [f"{name} was not run: {'; '.join(why)}" for name, why in one["not_run"].items()]
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
    return table + _list(told)


def _score(row: Mapping[str, Any]) -> str:
    score = "withheld" if row["score"] is None else f"{_number(row['score'])} {_text(row['unit'])}"
    worst = "" if row["worst"] is None else f"{_text(row['worst'])} ({_number(row['worst_value'])})"
    return (
        f"<tr><td>{_text(row['title'])}</td><td>{score}</td><td>{_text(row['measured'])}</td><td>{_text(row['failed'])}</td>"
        f"<td>{worst}</td></tr>"
    )


def _machine(one: Mapping[str, Any]) -> str:
    told = [f"{name} {value}" for part in one.values() for name, value in part.items() if value is not None]
    return f"<p>{_text(', '.join(told))}</p>"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>" if items else ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, float) and value != math.inf:
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return "equal" if value in ("inf", math.inf) else _text(value)


def _text(value: Any) -> str:
    return for_page(value)
