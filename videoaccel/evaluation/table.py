"""Rows of an evaluation as scores, totals and files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videoaccel.common.borders import csv_text
from videoaccel.common.wording import counted
from videoaccel.eval.fidelity import CEILING
from videoaccel.eval.metric import set_score
from videoaccel.eval.metric_names import metric_class
from videoaccel.eval.vbench import QUALITY, SEMANTIC, totals
from videoaccel.evaluation.rows import Row

COUNTED_AS = f"identical clips have no PSNR; in means they count as {CEILING:g} dB"


@dataclass(frozen=True)
class MetricResult:
    """A metric over the set.

    Attributes:
        metric: Its name.
        title: What people call it.
        unit: Of values; empty for none.
        higher_is_better: None where 1 is best.
        score: The set's; None if a clip could not be measured, or there is none.
        score_of_measured: The mean of those that could be, where some could not.
        measured: Clips with a value.
        failed: Clips that could not be measured.
        not_applicable: Clips for which the metric is not defined.
        identical: Clips that equal their reference bit for bit.
        worst: Name of the worst clip; None where several are equally good.
        worst_value: Its value.
    """

    metric: str
    title: str
    unit: str
    higher_is_better: bool | None
    score: float | None
    score_of_measured: float | None
    measured: int
    failed: int
    not_applicable: int
    identical: int
    worst: str | None
    worst_value: float | None


def summarise(metric: str, rows: Sequence[Row]) -> MetricResult:
    """A metric's rows as one result; a failed clip is never left out silently: the score is then None."""
    kind = metric_class(metric)
    measured = [row for row in rows if row.score is not None]
    failed = sum(row.error is not None for row in rows)
    score = set_score(row.score for row in measured if row.score is not None)
    found = None if math.isnan(score) else score
    badness = {row.clip: kind.badness(_value(row)) for row in measured}
    equal = len(measured) > 1 and len(set(badness.values())) == 1
    worst = None if equal else max(measured, key=lambda row: (badness[row.clip], row.clip), default=None)
    return MetricResult(
        metric, kind.title, kind.unit, kind.higher_is_better,
        score=None if failed else found,
        score_of_measured=found,
        measured=len(measured),
        failed=failed,
        not_applicable=sum(row.reason is not None for row in rows),
        identical=sum(bool(row.score and row.score.details.get("identical")) for row in measured),
        worst=worst.clip if worst else None,
        worst_value=_finite(_value(worst)) if worst else None,
    )  # fmt: skip


def not_applicable_lines(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """For how many clips each metric is not defined, and why.

    >>> not_applicable_lines({"ms_ssim": [Row("a", "ms_ssim", "", reason="too small")]})
    ['ms_ssim: 1 clip: too small']
    """
    found = [
        (name, reason, count)
        for name, of_metric in rows.items()
        for reason, count in Counter(row.reason for row in of_metric).items()
        if reason is not None
    ]
    return [f"{name}: {counted(count, 'clip')}: {reason}" for name, reason, count in found]


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Metrics by what kept them from measuring a clip.

    >>> by_reason({"psnr": "too short", "ssim": "too short"})
    {'too short': ['psnr', 'ssim']}
    """
    found: dict[str, list[str]] = {}
    for metric, reason in reasons.items():
        found.setdefault(reason, []).append(metric)
    return found


def lacking_lines(not_run: Mapping[str, Sequence[str]]) -> list[str]:
    """What metrics lack, everything once with all that lack it.

    >>> lacking_lines({"a": ["fetch x"], "b": ["fetch x", "fetch y"]})
    ['a, b: fetch x', 'b: fetch y']
    """
    metrics: dict[str, list[str]] = {}
    for name, texts in not_run.items():
        for text in texts:
            metrics.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in metrics.items()]


def vbench_totals(results: Sequence[MetricResult], *, withheld: str | None) -> dict[str, Any] | None:
    """Quality, semantic and total score; None if no dimension of VBench was asked for.

    Args:
        results: Of all metrics.
        withheld: Why there is no total even if all dimensions have scores.
    """
    raw = {result.metric: result.score for result in results if result.metric in QUALITY or result.metric in SEMANTIC}
    if not raw:
        return None
    found = asdict(totals(raw))
    if withheld:
        found |= {"quality": None, "semantic": None, "total": None, "withheld": withheld}
    elif found["missing"]:
        found["withheld"] = f"no score of {', '.join(found['missing'])}"
    return found


def row_record(row: Row) -> dict[str, Any]:
    """A row as results hold it; identical clips have ``value: null, identical: true``."""
    if row.score is None:
        return {"clip": row.clip, "error": row.error} if row.error else {"clip": row.clip, "not_applicable": row.reason}
    score = row.score
    return {
        "clip": row.clip, "value": _finite(score.value), "weight": score.weight,
        **{name: value if not isinstance(value, float) else _finite(value) for name, value in score.details.items()},
        **({"frames": [_finite(value) for value in score.frames]} if score.frames else {}),
    }  # fmt: skip


def official_results(rows: Mapping[str, Sequence[Row]], paths: Mapping[str, Path]) -> dict[str, Any]:
    """VBench's own format, ``{dimension: [score, [{"video_path": ..., "video_results": ...}]]}``, of its dimensions."""
    found: dict[str, Any] = {}
    for metric, measured in rows.items():
        if metric not in QUALITY and metric not in SEMANTIC:
            continue
        result = summarise(metric, measured)
        if result.score is None:
            continue
        entries = [
            {"video_path": str(paths[row.clip]), "video_results": _official(metric, row.score.value)}
            for row in measured
            if row.score is not None
        ]
        found[metric] = [result.score, entries]
    return found


def to_csv(results: Sequence[MetricResult]) -> str:
    """One line a metric."""
    names = list(MetricResult.__dataclass_fields__)
    return csv_text([names, *([asdict(result)[name] for name in names] for result in results)])


def _official(metric: str, value: float) -> float | bool:
    return bool(value) if metric in ("dynamic_degree", "human_action") else value


def _value(row: Row) -> float:
    assert row.score is not None
    return row.score.value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
