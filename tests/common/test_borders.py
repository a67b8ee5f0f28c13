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

import pytest
from rich.table import Table

from tests.common.hostile import HOSTILE, evaluation_page, gallery_entry, make_report
from tests.rendering.conftest import studio  # noqa: F401
from tests.rendering.studio import Studio
from tests.rendering.test_report import compared  # noqa: F401
from videoaccel.cli.terminal import PlainConsole, say
from videoaccel.common.borders import csv_text, fill, for_script, for_terminal
from videoaccel.evaluation.table import MetricResult
from videoaccel.evaluation.table import to_csv as evaluation_csv
from videoaccel.rendering.gallery import page


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


@pytest.mark.parametrize("text", HOSTILE)
def test_the_gallery(text: str) -> None:
    entries = [gallery_entry(text)]
    (data,) = check_page(page(text, entries), scripts=1)
    assert data == entries


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_of_an_evaluation(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (data,) = check_page(evaluation_page([text], monkeypatch), scripts=1)
    assert data[0]["name"] == text


@pytest.mark.parametrize("text", [HOSTILE[0], HOSTILE[3], HOSTILE[6], HOSTILE[14], HOSTILE[20]])
def test_a_report(text: str, compared: Path, studio: Studio, tmp_path: Path) -> None:  # noqa: F811
    written, _, table = make_report(text, compared, studio, tmp_path)
    check_page(written.read_text(encoding="utf-8"), scripts=0)
    for line in csv.reader(io.StringIO(table.read_text(encoding="utf-8"))):
        assert not any(cell.lstrip().startswith(("=", "@")) for cell in line), line


def test_the_examples_in_the_docs_are_as_todays_pages() -> None:
    pages = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.html"))
    assert len(pages) >= 3
    for path in pages:
        check_page(path.read_text(encoding="utf-8"), scripts=1)


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
