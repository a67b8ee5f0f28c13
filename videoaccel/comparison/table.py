"""From single measurements to the table of a comparison.

A method's quality at a speed-up is read off its own measured points, straight between neighbours and never beyond them.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from videoaccel.common.borders import csv_text
from videoaccel.common.wording import counted
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.values import EXACT, OFF

Row = Mapping[str, Any]
Point = tuple[float, float]
"""Speed-up and PSNR."""

NOT_REACHED, NOT_MEASURED = "not reached", "not measured"


@dataclass(frozen=True)
class Result:
    """One setting over all clips.

    Attributes:
        method: Name.
        setting: What sets it apart, such as ``period=2``.
        error: Why it is no result; what is given beside is of the clips that came out.
        clips: How many were made.
        failed: How many of them failed.
        latency_s: Seconds of denoising, the median; ``_low`` and ``_high`` are the quartiles.
        speedup_latency: Exact over this, each pair from one round; median and quartiles.
        flops: Of all network calls of a clip, the mean.
        speedup_flops: Exact's over these.
        peak_memory: Most bytes in use while denoising.
        cache_bytes: Most bytes that the method itself held.
        plan_s: Seconds of planning before the first step, the median; not part of the latency.
        psnr: Mean over clips, dB; infinite where all are those of exact, bit for bit.
        ssim: Mean over clips.
        worst_psnr: Of the clip that came out worst.
        worst_prompt: Its prompt.
        worst_seed: Its seed.
        digest: Of all decisions; two rows that decided alike share it.
        world: Of the demo world, share by attribute of what is shown as told.
        replayed: Share of the network's calls, or of stretches of its blocks, that ran as CUDA graphs, of timed clips
            if any were timed; None where there were no graphs.
        not_replayed: Why others did not, the most frequent reason.
        coarser: Fields that memory has changed, such as ``slots trunk``, of all clips; None where it changed none.
    """

    method: str
    setting: str
    error: str | None = None
    clips: int = 0
    failed: int = 0
    latency_s: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    speedup_latency: float | None = None
    speedup_latency_low: float | None = None
    speedup_latency_high: float | None = None
    flops: float | None = None
    speedup_flops: float | None = None
    peak_memory: int | None = None
    cache_bytes: int | None = None
    plan_s: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    worst_psnr: float | None = None
    worst_prompt: str | None = None
    worst_seed: int | None = None
    digest: str | None = None
    world: Mapping[str, float] = field(default_factory=dict)
    replayed: float | None = None
    not_replayed: str | None = None
    coarser: str | None = None


@dataclass(frozen=True)
class AtSpeedup:
    """A method's quality at a speed-up.

    Attributes:
        method: Name.
        by: What is sped up: ``latency`` or ``flops``.
        speedup: How many times.
        psnr: Interpolated between measured neighbours; None if it was not reached.
        slowest: The range of measured speed-ups begins here; None if nothing was measured.
        fastest: It ends here.
    """

    method: str
    by: str
    speedup: float
    psnr: float | None
    slowest: float | None
    fastest: float | None

    @property
    def text(self) -> str:
        """The number, or why there is none."""
        if self.slowest is None:
            return NOT_MEASURED
        if self.psnr is None and self.speedup < self.slowest:
            return f"begins at {self.slowest:.2f}x"
        return NOT_REACHED if self.psnr is None else f"{self.psnr:.2f}"


def summarise(
    settings: Sequence[Setting],
    rows: Iterable[Row],
    *,
    skipped: Mapping[tuple[str, str], str],
) -> list[Result]:
    """One result a setting.

    Args:
        settings: The first is ``exact``.
        rows: Measurements of these settings, as they are in the log.
        skipped: Settings that could not run, with the reason.
    """
    found: dict[tuple[str, str], list[Row]] = {setting.key: [] for setting in settings}
    for row in rows:
        if (key := (row["method"], row["setting"])) in found:
            found[key].append(row)
    exact = _mean(row["flops"] for row in found[settings[0].key] if "flops" in row)
    return [
        Result(*setting.key, error=f"not run: {skipped[setting.key]}")
        if setting.key in skipped
        else _result(setting, found[setting.key], exact_flops=exact)
        for setting in settings
    ]


def at_speedups(results: Sequence[Result], speedups: Sequence[float]) -> list[AtSpeedup]:
    """Every method's PSNR at some speed-ups, in latency and in FLOPs."""
    found = []
    for method in dict.fromkeys(result.method for result in results if result.method not in (EXACT, OFF)):
        for by in ("latency", "flops"):
            curve = curve_of(results, method, by=by)
            ends = (curve[0][0], curve[-1][0]) if curve else (None, None)
            found += [AtSpeedup(method, by, speedup, psnr_at(curve, speedup), *ends) for speedup in speedups]
    return found


def curve_of(results: Iterable[Result], method: str, *, by: str) -> list[Point]:
    """A method's measured points, by falling latency or FLOPs; errors and clips without any difference are none."""
    points = []
    for result in results:
        speedup = result.speedup_latency if by == "latency" else result.speedup_flops
        if result.method == method and result.error is None and speedup is not None and result.psnr is not None:
            points.append((speedup, result.psnr))
    return sorted(point for point in points if math.isfinite(point[1]))


def psnr_at(curve: Sequence[Point], speedup: float) -> float | None:
    """Linear between neighbours on a curve, None beyond its ends; of several points at one speed-up the best counts.

    >>> psnr_at([(1.5, 40.0), (2.5, 30.0)], 2.0), psnr_at([(1.5, 40.0), (2.5, 30.0)], 3.0)
    (35.0, None)
    """
    best: dict[float, float] = {}
    for x, y in curve:
        best[x] = max(y, best.get(x, -math.inf))
    if speedup in best:
        return best[speedup]
    low, high = [x for x in best if x < speedup], [x for x in best if x > speedup]
    if not (low and high):
        return None
    a, b = max(low), min(high)
    return best[a] + (best[b] - best[a]) * (speedup - a) / (b - a)


def to_csv(results: Sequence[Result]) -> str:
    """A line a result; attributes of the demo world are columns of their own."""
    attributes = list(dict.fromkeys(name for result in results for name in result.world))
    names = [item.name for item in fields(Result) if item.name != "world"]
    rows: list[list[Any]] = [[*names, *(f"world_{name}" for name in attributes)]]
    for result in results:
        values = asdict(result)
        rows.append([*(values[name] for name in names), *(result.world.get(name) for name in attributes)])
    return csv_text(rows)


def _result(setting: Setting, rows: Sequence[Row], *, exact_flops: float | None) -> Result:
    quality, timing = _kind(rows, "quality"), _kind(rows, "timing")
    broken = [row for row in rows if "error" in row]
    good, timed = ([row for row in some if "error" not in row] for some in (quality, timing))
    clips = {(row["prompt"], row["seed"]) for row in quality}
    failed = {(row["prompt"], row["seed"]) for row in broken}
    error = None
    if broken:
        error = f"{len(failed)} of {counted(len(clips), 'clip')} failed: {broken[0]['error']}"
    elif quality and setting.method not in (EXACT, OFF) and not any(row["fired"] for row in quality):
        error = "never fired: everything was computed in every step of every clip"
    low, middle, high = quartiles([row["seconds"] for row in timed])
    faster = quartiles([row["exact_seconds"] / row["seconds"] for row in timed])
    flops = _mean(row["flops"] for row in good)
    worst = min(good, key=lambda row: float(row["psnr"]), default=None)
    return Result(
        *setting.key,
        error=error,
        clips=len(clips),
        failed=len(failed),
        latency_s=middle,
        latency_low=low,
        latency_high=high,
        speedup_latency=faster[1],
        speedup_latency_low=faster[0],
        speedup_latency_high=faster[2],
        flops=flops,
        speedup_flops=exact_flops / flops if exact_flops and flops else None,
        peak_memory=max((row["peak_memory"] for row in timed if row["peak_memory"] is not None), default=None),
        cache_bytes=max((row["cache_bytes"] for row in good), default=None),
        plan_s=quartiles([row["plan_seconds"] for row in timed])[1],
        psnr=_mean_psnr([row["psnr"] for row in good]),
        ssim=_mean(row["ssim"] for row in good),
        worst_psnr=None if worst is None else float(worst["psnr"]),
        worst_prompt=None if worst is None else worst["prompt"],
        worst_seed=None if worst is None else worst["seed"],
        digest=_digest([row["digest"] for row in sorted(good, key=lambda row: (row["prompt"], row["seed"]))]),
        world=_world(good),
        coarser=_coarser(good),
        **_graphs(timed or good),
    )


def _coarser(rows: Sequence[Row]) -> str | None:
    """What memory has made of the method."""
    forms = (row.get("coarser", {}) for row in rows)
    told = dict.fromkeys(", ".join(f"{name} {value}" for name, value in form.items()) for form in forms if form)
    return "; ".join(told) or None


def _graphs(rows: Sequence[Row]) -> dict[str, Any]:
    """What was replayed of what the rows' clips ran."""
    told = [row["graph_calls"] for row in rows if row.get("graph_calls") is not None]
    plain: Counter[str] = Counter()
    for one in told:
        plain.update(one.get("plain", {}))
    replayed = sum(one.get("replayed", 0) for one in told)
    if not told or not (count := replayed + plain.total()):
        return {}
    return {"replayed": replayed / count, "not_replayed": plain.most_common(1)[0][0] if plain else None}


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | tuple[None, None, None]:
    """Lower quartile, median, upper quartile.

    >>> quartiles([3.0, 1.0, 2.0])
    (1.5, 2.0, 2.5)
    """
    if len(values) < 2:
        return (values[0], values[0], values[0]) if values else (None, None, None)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _kind(rows: Iterable[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _mean_psnr(values: Iterable[Any]) -> float | None:
    """As `videoaccel.eval.fidelity.mean_psnr`; the log holds infinity as a text."""
    from videoaccel.eval.fidelity import mean_psnr

    found = [float(value) for value in values]
    return mean_psnr(found) if found else None


def _digest(digests: Sequence[str]) -> str | None:
    """The one that all clips share, or one of all of them."""
    if len(set(digests)) <= 1:
        return digests[0] if digests else None
    return hashlib.sha256(",".join(digests).encode()).hexdigest()[:16]


def _world(rows: Sequence[Row]) -> dict[str, float]:
    if not rows or any(row["world"] is None for row in rows):
        return {}
    counts = [row["world"] for row in rows]
    return {name: sum(c[name][0] for c in counts) / sum(c[name][1] for c in counts) for name in counts[0]}
