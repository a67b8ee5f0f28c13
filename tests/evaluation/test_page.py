"""The page of an evaluation can be read on a phone, and on a dark screen."""

import re
from pathlib import Path

import numpy as np
import pytest

from videoaccel.evaluation import page
from videoaccel.evaluation.clips import ClipFile, Reading
from videoaccel.evaluation.table import MetricResult


def test_the_page_takes_a_phones_width_and_its_colours_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    monkeypatch.setattr(page, "_both", lambda clip, reading: (frames, frames + 1))
    monkeypatch.setattr(page, "_shown_clips", lambda results, rows, clips: clips)
    names = ("temporal_flickering", "motion_smoothness", "dynamic_degree")
    results = [MetricResult(name, name, "", True, 0.5, None, 2, 0, 0, 0, "a" * 90, 0.25) for name in names]
    record = {"folder": "clips", "command": "evaluate", "vbench": None, "failures": {}, "not_run": {}}
    clips = [ClipFile("a.mp4", Path("a.mp4"), reference=Path("b.mp4"))]
    text = page.report_page(results, {}, clips, {**record, "not_applicable": []}, reading=Reading())
    head, _, body = text.partition("</head>")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in head
    assert "prefers-color-scheme: dark" in head and "color-scheme: light dark" in head
    assert re.findall(r"#[0-9a-f]{3,8}\b|style=", re.sub(r'src="[^"]*"|<script.*?</script>', "", body)) == []
    assert "<div class=scroll><table>" in body and body.count("<td class=clip>") == 3
    assert body.count('class="ring"') == 4 and 'class="share"' in body and "script-src 'sha256-" in head
