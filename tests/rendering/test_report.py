"""Reports: what is in them is what was measured, on one page that needs nothing else."""

import csv
import html
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rendering.studio import FakeRenderer, Studio
from videoaccel.cli.app import run
from videoaccel.comparison.worst import Worst, file_name, strip
from videoaccel.eval.metric import Score
from videoaccel.evaluation.rows import Row
from videoaccel.evaluation.table import summarise
from videoaccel.models.seam import BODY, Site
from videoaccel.reporting.data import gather, pareto
from videoaccel.reporting.plots import speed_quality
from videoaccel.reporting.read import read_source
from videoaccel.reporting.report import report, to_csv
from videoaccel.session.action_grid import as_letters, spread
from videoaccel.session.actions import COMPUTE, REUSE, SKIP, Compute, Forecast, Partial, Span

pytest.importorskip("matplotlib")


class Log:
    def __init__(self, *rows: Any) -> None:
        self.rows = rows

    def of(self, **fields: Any) -> Any:
        return [row for row in self.rows if all(row[name] == value for name, value in fields.items())]


def row(method: str, setting: str, **values: Any) -> dict[str, Any]:
    plain = {
        "error": None, "clips": 2, "failed": 0, "latency_s": 1.0, "speedup_latency": 1.0, "speedup_latency_low": 0.9,
        "speedup_latency_high": 1.1, "speedup_flops": 1.0, "peak_memory": 3 << 30, "cache_bytes": 1 << 28, "psnr": 30.0,
        "ssim": 0.9, "worst_psnr": 25.0, "worst_prompt": "a red circle", "world": {},
    }  # fmt: skip
    return {"method": method, "setting": setting, **plain, **values}


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """What a comparison leaves behind."""
    folder = tmp_path / "compared"
    folder.mkdir()
    rows = [
        row("exact", "", psnr="inf"),
        row("fewer_steps", "steps=15", speedup_latency=2.0, speedup_flops=2.0, psnr=20.0),
        row("fora", "period=2", speedup_latency=1.8, speedup_flops=1.9, psnr=28.0),
        row("fora", "period=3", speedup_latency=2.4, speedup_flops=2.8, psnr=24.0),
        row("soda", "speedup=2", speedup_latency=2.0, speedup_flops=2.1, psnr=33.0),
        row("warp", "", error="never fired: <everything> was computed", psnr=None, speedup_latency=None),
    ]
    holds = {"size": [64, 64], "frames": 17, "steps": 30, "guidance": 4.0, "dtype": "float32"}
    about = {
        "model": "demo",
        "command": "videoaccel compare",
        "machine": {"name": "a <CPU>"},
        "versions": {"torch": "2"},
    }
    (folder / "results.json").write_text(json.dumps({**about, "holds": holds, "rows": rows, "at_speedup": []}))
    grid = {"sites": ["space.0.attn", "time.0.attn"], "steps": ["cc", "rf", "cc"]}
    lines: list[dict[str, Any]] = [{"format": "videoaccel-comparison-1", "kind": "header"}]
    worst = Worst(folder, Log())  # type: ignore[arg-type]
    for one in rows[1:-1]:
        for seed, psnr in ((0, 31.0), (1, 22.0), (2, 27.0)):
            key = {"method": one["method"], "setting": one["setting"], "prompt": "a <red> circle", "seed": seed}
            lines.append({"kind": "quality", **key, "psnr": psnr, "ssim": 0.8, "grid": grid if seed == 0 else None})
            frames = np.full((17, 32, 48, 3), seed, np.uint8)
            worst(lines[-1], frames, frames)
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"kind": "qual')
    return folder


def test_one_page_with_everything_in_it(compared: Path, studio: Studio, tmp_path: Path) -> None:
    render = studio.open({"prompt": "a", "seed": {"from": 0, "to": 3}}, {"prompt": "b", "accel": "fora", "steps": 9})
    studio.work(render, FakeRenderer())
    evaluated = tmp_path / "scores.json"
    rows = [Row("a.mp4", "psnr", "1", Score(31.5)), Row("<b>.mp4", "psnr", "2", Score(22.5))]
    scores = [asdict(summarise("psnr", rows))]
    found = {"scores": scores, "vbench": {"withheld": "not all"}, "not_run": {"lpips": ["no AlexNet"]}}
    evaluated.write_text(json.dumps(found))
    page, data, table = report([compared, studio.out, evaluated], tmp_path / "report", title="Mine & yours")
    text = page.read_text(encoding="utf-8")
    for wanted in (
        "Mine &amp; yours", "Speed and quality", "Worst clips", "Where the time goes", "Memory", "Step by site",
        "How it was measured", "Hardware and versions", "never fired: &lt;everything&gt;", "a &lt;red&gt; circle",
        "&lt;b&gt;.mp4 (22.50)", "lpips was not run: no AlexNet", "no total: not all", "a &lt;CPU&gt;", "fewer_steps",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "Scaling" not in text, "nothing was rendered on several ranks"
    assert text.count("data:image/jpeg;base64,") == 3, "one of every method"
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text))
    assert all(address.startswith(("data:", "#")) for address in addresses), "no network, no other file"
    assert text.count("<svg") == text.count("</svg>") >= 10
    drawn = text.partition("</style>")[2]
    assert "var(--blue)" in drawn and "var(--soft)" in drawn and ": #000000" not in drawn, "as the page is dark, too"
    identities = re.findall(r'\bid="([^"]+)"', text)
    clips = [one for one in identities if one.startswith("p") and len(one) > 9]
    assert len(clips) == len(set(clips)), "the pictures' inner names do not meet"
    found = json.loads(data.read_text())
    assert found["comparisons"][0]["worst"][0]["psnr"] == 22.0 and "picture" not in found["comparisons"][0]["worst"][0]
    assert found["renders"][0]["clips"] == 5 and found["renders"][0]["groups"][0]["stages"]["decode"]["median"] == 0.5
    lines = list(csv.DictReader(io.StringIO(table.read_text())))
    assert {"source": str(compared), "what": "soda speedup=2", "quantity": "psnr", "value": "33.0"} in lines
    assert {"source": str(evaluated), "what": "score", "quantity": "psnr", "value": "27.0"} in lines


def test_without_matplotlib_everything_but_the_curves_is_there(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["report", str(compared), "-o", str(tmp_path / "report"), "-q"]) == 0
    missing = "a report with curves needs matplotlib; pip install 'videoaccel[report]' brings it"
    assert capfd.readouterr().err == f"videoaccel: {missing}\n"
    page = (tmp_path / "report" / "report.html").read_text()
    assert html.escape(missing) in page and "<svg" not in page and page.count('class="card"') == 3
    assert "<td>soda</td><td>speedup=2</td>" in page and "Step by site" not in page
    assert (tmp_path / "report" / "report.csv").stat().st_size > 500


def test_what_was_not_measured_is_not_there(compared: Path) -> None:
    data = gather([read_source(compared)])
    assert data["renders"] == data["scaling"] == data["evaluations"] == []
    assert [one["title"] for one in data["heat_maps"]] == [
        "fewer_steps steps=15", "fora period=2", "soda speedup=2", "fora period=3",
    ], "each method's first before any second"  # fmt: skip
    assert data["comparisons"][0]["worst"][0]["seed"] == 1
    assert {one["setting"] for one in data["comparisons"][0]["worst"]} == {"steps=15", "period=2", "speedup=2"}
    assert "warp,error,never fired" in to_csv(data)


def test_scaling_needs_several_numbers_of_ranks(studio: Studio) -> None:
    render = studio.many(4)
    studio.work(render, FakeRenderer())
    for number, place in enumerate(render.folder.finished().values()):
        (path,) = place.glob("*.json")
        record = json.loads(path.read_text())
        record["machine"] = {"name": "GPU"}
        record |= {} if number < 2 else {"ranks": {"data": 3, "guidance": 2, "sequence": 2}}
        record["seconds"]["denoise"] = 8.0 if number < 2 else 2.5
        path.write_text(json.dumps(record))
    (line,) = gather([read_source(studio.out)])["scaling"]
    assert line["points"] == [{"ranks": 1, "seconds": 8.0}, {"ranks": 4, "seconds": 2.5}]


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto([]) == []
    points = [(1.0, 10.0), (1.0, 12.0), (2.0, 12.0), (3.0, 5.0), (2.5, 5.0)]
    assert pareto(points) == [(2.0, 12.0), (3.0, 5.0)]
    for x, y in points:
        assert any(fx >= x and fy >= y for fx, fy in pareto(points))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: folder, "is no result; a report takes"),
        (lambda folder: _written(folder / "x.json", "[1"), "is no result"),
        (lambda folder: _written(folder / "x.json", '{"rows": 3}'), "is no result"),
        (lambda folder: _written(folder / "x.safetensors", "no"), "is no prior"),
    ],
)
def test_what_is_no_result(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        report([make(tmp_path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_method_has_one_colour_in_both_pictures() -> None:
    found = [("sada", 50.0, 1.2, 1.1), ("sada", 40.0, 2.5, 1.2), ("soda", 40.0, 1.2, 1.6), ("soda", 30.0, 2.5, 3.2)]
    rows = [row(name, "", psnr=psnr, speedup_latency=at, speedup_flops=flops) for name, psnr, at, flops in found]
    for by in ("latency", "flops"):
        picture = speed_quality({"rows": rows}, by=by, salt=by)
        assert picture is not None and "yellow: what nothing beats" in picture["narrow"]
        before = picture["wide"].partition(">sada<")[0].rpartition("<text")[2]
        assert "var(--blue)" in before, "the best by the clock, though not by FLOPs"


def test_what_cannot_be_written_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoaccel.reporting.report.read_source", lambda path: pytest.fail("it was read"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot write a report to .*file: it is not a folder"):
        report([tmp_path], tmp_path / "file")
    for name in ("report.html", "report.json", "report.csv", "quality.jsonl"):
        (tmp_path / f"of-{name}" / name).mkdir(parents=True)
        with pytest.raises(IsADirectoryError, match=f"{name}: it is a folder"):
            report([tmp_path], tmp_path / f"of-{name}")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_worst_clip_is_kept_over_runs(tmp_path: Path) -> None:
    frames, other = np.zeros((17, 16, 24, 3), np.uint8), np.full((17, 16, 24, 3), 200, np.uint8)
    log = Log({"kind": "quality", "method": "fora", "setting": "period=2", "psnr": 20.0})
    worst = Worst(tmp_path, log)  # type: ignore[arg-type]
    key = {"method": "fora", "setting": "period=2"}
    worst({**key, "psnr": 21.0}, frames, other)
    assert not (tmp_path / "worst").exists(), "a worse one was seen before"
    worst({**key, "psnr": "inf"}, frames, other)
    worst({**key, "psnr": 19.0}, frames, other)
    assert [path.name for path in (tmp_path / "worst").iterdir()] == [file_name(**key)] == ["fora-period-2.jpg"]
    assert strip(frames, other).startswith(b"\xff\xd8") and strip(frames[:1], other[:1]).startswith(b"\xff\xd8")


def test_decisions_as_letters() -> None:
    attn, mlp = Site("attn", "space", 0), Site("mlp", "space", 0)
    second = Site("attn", "time", 0)
    blocks = {Site("block", "space", 0): (attn, mlp), Site("block", "time", 0): (second,)}
    trace: list[dict[Any, Any]] = [
        {}, {attn: REUSE, mlp: Forecast(1)}, {Site("block", "time", 0): SKIP, attn: Partial(0.5)}, {Span(0, 2): REUSE},
        {attn: Compute(0.5)}, {},
    ]  # fmt: skip
    found = as_letters(trace, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0], blocks)
    assert found["steps"] == ["ccc", "rfc", "pcs", "rrr", "pcc", "sss"] and len(found["sites"]) == 3
    assert spread({BODY: REUSE}, blocks) == {attn: REUSE, mlp: REUSE, second: REUSE}
    assert spread({}, blocks)[attn] is COMPUTE
