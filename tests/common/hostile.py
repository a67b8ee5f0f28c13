"""Texts of people who mean no good, and what is shown with them in every field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rendering.studio import FakeRenderer, Studio
from videoaccel.evaluation import page as evaluation
from videoaccel.evaluation.clips import ClipFile, Reading
from videoaccel.reporting.report import report

HOSTILE = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<!--<script>", '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)", "@DATA@", "@BODY@", "@POLICY@", "&lt;script&gt;", "\x1b[31mred\x1b]0;title\x07", "\x9b2J",
    "\u202edrawkcab", "[red]markup[/red]", "[/]", "=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "a\u2028b", "$\\frac{1}$",
)  # fmt: skip


def spoilt(value: Any, text: str) -> Any:
    """The same with every text replaced, but for those by which files are known."""
    if isinstance(value, dict):
        kept = ("kind", "format", "event", "file", "sha256", "time", "worker", "metric", "psnr", "dtype")
        return {key: one if key in kept else spoilt(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [spoilt(one, text) for one in value]
    return text if isinstance(value, str) else value


def gallery_entry(text: str) -> dict[str, Any]:
    """A clip of a gallery, with the text in every field."""
    entry = dict.fromkeys(("id", "name", "prompt", "file", "kind", "poster", "sidecar", "created", "method"), text)
    entry |= {"twins": text, "exact": False}
    return entry | {"settings": {text: text}, "memory": [text], "seed": 1}


def evaluation_page(texts: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of an evaluation, likewise: a clip for every text."""
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    monkeypatch.setattr(evaluation, "_both", lambda clip, reader: (frames, frames))
    clips = [ClipFile(text, Path("a.mp4"), prompt=text, reference=Path("b.mp4")) for text in texts]
    monkeypatch.setattr(evaluation, "_shown_clips", lambda results, rows, clips: clips)
    told = "".join(texts)
    record = {
        "folder": told, "command": told, "vbench": None, "failures": {text: {"psnr": text} for text in texts},
        "not_run": {text: [text] for text in texts}, "not_applicable": list(texts),
    }  # fmt: skip
    return evaluation.report_page([], {}, clips, record, reading=Reading())


def make_report(text: str, compared: Path, studio: Studio, folder: Path) -> list[Path]:
    """A report of a comparison, a render and an evaluation, likewise: page, data, table."""
    render = studio.open({"prompt": "a"})
    studio.work(render, FakeRenderer())
    sidecar = next(studio.out.glob("clips/*/*.json"))
    sidecar.write_text(json.dumps(spoilt(json.loads(sidecar.read_text()), text)))
    results = compared / "results.json"
    data = json.loads(results.read_text())
    names = [row["method"] for row in data["rows"]]
    data = spoilt(data, text)
    for row, name in zip(data["rows"], names, strict=True):
        row["method"], row["error"] = name, None if name != "warp" else text
    results.write_text(json.dumps(data))
    evaluated = folder / "scores.json"
    score = {"metric": text, "title": text, "score": 1.0, "unit": text, "measured": text, "failed": text, "worst": text,
             "worst_value": 1.0}  # fmt: skip
    evaluated.write_text(json.dumps({"scores": [score], "vbench": {"withheld": text}, "not_run": {text: [text]}}))
    return report([compared, studio.out, evaluated], folder / "report", title=text)
