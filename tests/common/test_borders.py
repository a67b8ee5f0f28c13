"""A hostile set of strings in every field of everything that is shown: pages run no script but their own, and so on."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from tests.rendering.conftest import studio  # noqa: F401
from tests.rendering.studio import FakeRenderer, Studio
from tests.rendering.test_report import compared  # noqa: F401
from videoaccel.cli.terminal import PlainConsole, say
from videoaccel.common.borders import csv_text, fill, for_script, for_terminal
from videoaccel.evaluation import page as evaluation_report
from videoaccel.evaluation.clips import ClipFile
from videoaccel.evaluation.table import MetricResult
from videoaccel.evaluation.table import to_csv as evaluation_csv
from videoaccel.rendering.gallery import page
from videoaccel.reporting.report import report

HOSTILE = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<!--<script>", '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)", "@DATA@", "@BODY@", "@POLICY@", "&lt;script&gt;", "\x1b[31mred\x1b]0;title\x07", "\x9b2J",
    "\u202edrawkcab", "[red]markup[/red]", "[/]", "=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "a\u2028b", "$\\frac{1}$",
)  # fmt: skip


class Scripts(HTMLParser):
    """What a browser would run, or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[str] = []
        self.data: list[str] = []
        self.tags: set[str] = set()
        self.policies: list[str] = []
        self._into: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        assert not [name for name in found if name.startswith("on")], found
        assert not (found.get("href") or found.get("src") or "").startswith("javascript:")
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(found["content"] or "")
        if tag == "script":
            self._into = self.data if found.get("type") == "application/json" else self.run
            self._into.append("")

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._into = None


def check_page(text: str, *, scripts: int) -> list[Any]:
    """No script but the page's own, each by its hash; returns the data in it."""
    found = Scripts()
    found.feed(text)
    assert len(found.run) == scripts and not any("alert(1)" in script for script in found.run)
    (policy,) = found.policies
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.run]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.partition("style-src")[0]
    assert not found.tags & {"iframe", "object", "embed", "base", "link", "form"} - {"form"}
    return [json.loads(data) for data in found.data]


def spoilt(value: Any, text: str) -> Any:
    """The same with every text replaced, but for those by which files are known."""
    if isinstance(value, dict):
        kept = ("kind", "format", "event", "file", "sha256", "time", "worker", "metric", "psnr", "dtype")
        return {key: one if key in kept else spoilt(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [spoilt(one, text) for one in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_the_gallery(text: str) -> None:
    entry = dict.fromkeys(("id", "name", "prompt", "file", "kind", "poster", "sidecar", "created"), text)
    entries = [entry | {"settings": {text: text}, "memory": [text], "seed": 1}]
    (data,) = check_page(page(text, entries), scripts=1)
    assert data == entries


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_of_an_evaluation(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    monkeypatch.setattr(evaluation_report, "_both", lambda clip, reader: (frames, frames))
    clip = ClipFile(name=text, path=tmp_path / "a.mp4", prompt=text, reference=tmp_path / "b.mp4")  # type: ignore[call-arg]
    monkeypatch.setattr(evaluation_report, "_shown_clips", lambda results, rows, clips: [clip])
    record = {
        "folder": text, "command": text, "vbench": None, "failures": {text: {"psnr": text}}, "not_run": {text: [text]},
        "not_applicable": [text],
    }  # fmt: skip
    (data,) = check_page(evaluation_report.report_page([], {}, [clip], record, reader="av"), scripts=1)
    assert data[0]["name"] == text


@pytest.mark.parametrize("text", [HOSTILE[0], HOSTILE[3], HOSTILE[6], HOSTILE[14], HOSTILE[20]])
def test_a_report(text: str, compared: Path, studio: Studio, tmp_path: Path) -> None:  # noqa: F811
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
    evaluated = tmp_path / "scores.json"
    score = {"metric": text, "title": text, "score": 1.0, "unit": text, "measured": text, "failed": text, "worst": text,
             "worst_value": 1.0}  # fmt: skip
    evaluated.write_text(json.dumps({"scores": [score], "vbench": {"withheld": text}, "not_run": {text: [text]}}))
    written, _, table = report([compared, studio.out, evaluated], tmp_path / "report", title=text)
    check_page(written.read_text(encoding="utf-8"), scripts=0)
    for line in csv.reader(io.StringIO(table.read_text(encoding="utf-8"))):
        assert not any(cell.lstrip().startswith(("=", "@")) for cell in line), line


def test_cells_are_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO(csv_text([HOSTILE, [-1.5, "-1.5", "", None, True]]))))
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in rows[0])
    assert rows[1] == ["-1.5", "-1.5", "", "", "True"]
    kinds = dict.fromkeys(MetricResult.__dataclass_fields__, "=1+1")
    assert "'=1+1" in evaluation_csv([MetricResult(**kinds)]) and asdict(MetricResult(**kinds))["worst"] == "=1+1"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=200, color_system=None)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.print(text)
    for shown in (capsys.readouterr().out, out.getvalue()):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown), repr(shown)
    assert for_terminal(text) in out.getvalue() or "\t" in text


def test_a_page_is_filled_once() -> None:
    assert fill("@A@ @B@ @C@", {"A": "@B@", "B": "b"}) == "@B@ b @C@"
    assert json.loads(for_script(list(HOSTILE))) == list(HOSTILE)
