"""Tables of tools on the same weights: every setting, and PSNR at equal speed-up read off each method's own points."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import AtSpeedup, Result, Row, at_speedups, summarise
from videoaccel.comparison.values import EXACT

SPEEDUPS = (1.5, 2.0, 2.5, 3.0)


def results(rows: Sequence[Row]) -> list[Result]:
    """One a setting, in the order of the rows; those that raised on every still have the error alone."""
    measured = [row for row in rows if row["kind"] in ("quality", "timing")]
    keys = dict.fromkeys((row["method"], row["setting"]) for row in measured)
    settings = [Setting(*key) for key in dict.fromkeys([(EXACT, ""), *keys])]
    return summarise(settings, measured, skipped={})


def tools(rows: Sequence[Row]) -> dict[str, str]:
    """By method, whose it is."""
    return {row["method"]: row["tool"] for row in rows if row.get("tool")}


def at_equal(found: Sequence[Result], *, by: str) -> dict[str, list[tuple[AtSpeedup, AtSpeedup]]]:
    """By method, at each of the speed-ups, the mean PSNR and that of the worst still; ``by`` latency or flops."""
    worst = [dataclasses.replace(one, psnr=one.worst_psnr) for one in found]
    mean_at, worst_at = (at_speedups(some, SPEEDUPS) for some in (found, worst))
    pairs: dict[str, list[tuple[AtSpeedup, AtSpeedup]]] = {}
    for mean, lowest in zip(mean_at, worst_at, strict=True):
        if mean.by == by:
            pairs.setdefault(mean.method, []).append((mean, lowest))
    return pairs


def equal_table(rows: Sequence[Row], *, by: str) -> str:
    """In Markdown, a method a line: mean (worst) at each speed-up."""
    owners, pairs = tools(rows), at_equal(results(rows), by=by)
    head = f"| tool | method | {' | '.join(f'{one:g}x' for one in SPEEDUPS)} |\n{'|---' * (2 + len(SPEEDUPS))}|"
    lines = [
        f"| {owners.get(method, '')} | {method} | {' | '.join(_both(*pair) for pair in some)} |"
        for method, some in pairs.items()
        if method in owners
    ]
    return "\n".join([head, *lines])


def whole_table(rows: Sequence[Row]) -> str:
    """In Markdown, a setting a line."""
    owners = tools(rows)
    names = "tool | method | setting | fewer FLOPs | faster | PSNR | worst | still right | stored"
    lines = [f"| {names} |", f"{'|---' * 9}|"]
    for one in results(rows):
        if one.error is not None and one.psnr is None:
            lines.append(f"| {owners.get(one.method, '')} | {one.method} | {one.setting} | {one.error} | | | | | |")
            continue
        cells = [_number(one.speedup_flops, "x"), _number(one.speedup_latency, "x"), _number(one.psnr, ""),
                 _number(one.worst_psnr, ""), _number(100 * one.world.get("still", 0.0), " %")]  # fmt: skip
        stored = "" if one.cache_bytes is None else f"{one.cache_bytes / 1e6:.2f} MB"
        lines.append(
            f"| {owners.get(one.method, '')} | {one.method} | {one.setting} | {' | '.join(cells)} | {stored} |"
        )
    return "\n".join(lines)


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """For the file of results."""
    found = results(rows)
    told: dict[str, Any] = {"attempts": {row["setting"]: row["why"] for row in rows if row["kind"] == "attempt"}}
    told["calibration"] = [
        {name: row[name] for name in ("seconds", "generations")} for row in rows if row["kind"] == "calibration"
    ]
    for by in ("latency", "flops"):
        told[f"at_equal_{by}"] = {
            method: {
                f"{mean.speedup:g}x": {"psnr": _rounded(mean.psnr), "worst": _rounded(low.psnr)} for mean, low in some
            }
            for method, some in at_equal(found, by=by).items()
        }
    owners = tools(rows)
    told["settings"] = [{"tool": owners.get(one.method, ""), **dataclasses.asdict(one)} for one in found]
    return told


def _both(mean: AtSpeedup, worst: AtSpeedup) -> str:
    return mean.text if mean.psnr is None or worst.psnr is None else f"{mean.psnr:.1f} ({worst.psnr:.1f})"


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f}{unit}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
