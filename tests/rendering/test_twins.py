"""Twins: clips that are the same but for the method, in the gallery side by side, in a report measured."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.common.hostile import HOSTILE
from tests.rendering.studio import FakeRenderer, Studio
from videoaccel.jobs.sidecar import file_hash
from videoaccel.media.writer import Writer
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.gallery import Gallery, page, read_entry
from videoaccel.rendering.twin_psnr import KEPT, measure, measured
from videoaccel.rendering.twins import is_exact, method_told, twin_key


def record(**values: Any) -> dict[str, Any]:
    """A sidecar; ``settings`` are added to those that every clip has."""
    base = {
        "prompt": "a red circle", "texts": ["a red circle."], "seed": 3, "model": {"sha256": "ab"}, "inputs": {},
        "output": {"file": "a.mp4"}, "acceleration": None,
    }  # fmt: skip
    settings = {"steps": 30, "size": "64x64", "frames": 17, "guidance": 7.0, **values.pop("settings", {})}
    return {**base, "settings": settings, **values}


FAST = {"accel": "soda", "speedup": 2.0, "prior": "p.safetensors", "cache_memory": 5}


@pytest.mark.parametrize(
    "other",
    [
        {"acceleration": {"method": "soda"}, "settings": FAST},
        {"acceleration": {"method": "soda"}, "settings": FAST, "inputs": {"p.safetensors": "0f"}},
        {"settings": {"threads": 8, "device": "cuda", "output": "elsewhere.mp4", "offload": True, "sp": 4}},
        {"settings": {"seed": 0, "seeds": [3, 4], "keep": 0, "batch_size": 2}},
        {"settings": {"lora": [], "ground": "white", "precision": "full"}},
        {"output": {"file": "b.mp4", "sha256": "cd"}},
    ],
)
def test_twins_are_the_same_but_for_the_method(other: Mapping[str, Any]) -> None:
    assert twin_key(record(**other)) == twin_key(record()) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a blue circle"},
        {"texts": ["a red circle. aesthetic score: 6.5."]},
        {"seed": 4},
        {"model": {"sha256": "ac"}},
        {"inputs": {"shore.png": "0f"}},
        {"output": {"file": "a.gif"}},
        *({"settings": {name: value}} for name, value in (
            ("steps", 20), ("size", "64x96"), ("frames", 16), ("guidance", 4.0), ("negative_prompt", "dull"),
            ("precision", "fp8"), ("lora", ["a.safetensors"]), ("dtype", "bfloat16"), ("vae_tiling", True),
        )),
    ],
)  # fmt: skip
def test_others_are_not(other: Mapping[str, Any]) -> None:
    assert twin_key(record(**other)) not in (None, twin_key(record()))


@pytest.mark.parametrize("spoilt", [{"prompt": 7}, {"seed": None}, {"model": "x"}, {"settings": []}, {"output": None}])
def test_a_sidecar_that_is_not_understood_is_nobodys_twin(spoilt: Mapping[str, Any]) -> None:
    assert twin_key({**record(), **spoilt}) is None
    assert method_told({"acceleration": 7, "settings": 7}) == "exact"


def test_the_method_with_its_target() -> None:
    def told(method: str, **settings: Any) -> str:
        return method_told(record(acceleration={"method": method}, settings=settings))

    assert told("soda", speedup=2.0) == "soda 2x" and told("soda", flops_ratio=2.5) == "soda 2.5x fewer FLOPs"
    assert told("soda", accel_options={"speedup": 2.0}) == "soda 2x", "in jobs a target is a field"
    assert told("soda", min_psnr=30, max_lpips=0.1) == "soda 30 dB LPIPS 0.1"
    assert told("toca", accel_options={"ratio": 0.5, "parts": [1, 2]}) == "toca ratio 0.5 parts [1, 2]"
    assert told("fora", accel_options={"period": 2}) != told("fora", accel_options={"period": 3})
    assert method_told(record()) == "exact"
    first = record(acceleration={"method": "soda", "measured": True}, settings=FAST)
    assert is_exact(first) and method_told(first) == "exact", "what a method was measured on was computed in full"


def test_the_gallery_puts_them_together(studio: Studio) -> None:
    render = made(studio, {"fora": np.zeros((2, 16, 16, 3), np.uint8)})
    entries = [read_entry(render, path.name) for path in render.finished().values()]
    assert sorted((one["method"], one["exact"]) for one in entries if one) == [
        ("exact", True),
        ("fora period 2", False),
    ]
    assert len({one["twins"] for one in entries if one}) == 1
    text = page("a", [one for one in entries if one])
    assert ".small { image-rendering: pixelated; }" in text and "< 256" in text
    assert 'controls: ""' not in text.partition("audio")[2].partition("\n")[2], "films have no bar until pointed at"


def test_cards_say_how_near_a_clip_is_to_its_exact_twin(studio: Studio, tmp_path: Path) -> None:
    from videoaccel.reporting.report import report

    other = shifted(0)
    other[1] += 4  # a frame that differs beside one that does not
    render = made(studio, {"fora": other, "sada": shifted(0)})
    assert measure(render, seconds=0) == 0 and measured(render) == {}, "no time, no measurement"
    assert measure(render, seconds=60) == 2 and measure(render, seconds=60) == 0, "once"
    psnr = measured(render)
    report([render.root], tmp_path / "report")
    told = json.loads((tmp_path / "report" / "report.json").read_text())["renders"][0]["quality"]["clips"]
    assert {one["clip"]: float(one["psnr"]) for one in told} == pytest.approx(psnr)
    assert sorted(psnr.values()) == [pytest.approx((100 + dB(4)) / 2), math.inf]
    Gallery(render).update(now=True)
    text = (render.root / "index.html").read_text()
    assert f'"psnr":"{(100 + dB(4)) / 2:.1f} dB to exact"' in text.replace('": "', '":"') and "equal to exact" in text
    (render.work / KEPT).write_text('{"x": {"psnr": "<script>"}, "y": 3, "z": {"psnr": -1}}')
    assert measured(render) == {}


def test_a_render_ends_with_its_clips_compared(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr("videoaccel.rendering.run.measure", lambda folder, *, seconds: given.append(seconds) or 1)
    studio.work(studio.open({"prompt": "a red circle"}), FakeRenderer())
    assert len(given) == 1 and 10 <= given[0] < 11


def made(studio: Studio, clips: Mapping[str, Any], *, seed: int = 0, exact: Any = None) -> RenderFolder:
    """A render with frame folders: an exact clip, grey or ``exact``, and one by each method, of these frames."""
    methods = ["exact", *({"method": "fora", "period": 2} if name == "fora" else name for name in clips)]
    render = studio.open({"prompt": "a red circle", "format": "frames", "accel": methods, "seed": seed})
    studio.work(render, FakeRenderer())
    for job in render.plan.jobs:
        name = job.job.settings.accel
        shown = clips[name] if name in clips else np.full((2, 16, 16, 3), 100, np.uint8) if exact is None else exact
        put(render.folder.clips / job.folder, job.job.name, shown, method=name if name in clips else None)
    return render.folder


def put(place: Path, name: str, frames: Any, *, method: str | None) -> None:
    """A clip of these frames in place of the one that is there, with a sidecar that fits."""
    there = place / name
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    with Writer(f"{there}/", fps=8) as writer:
        writer.write(frames)
    path = place / f"{name}.json"
    told = json.loads(path.read_text())
    told["output"] |= {"file": f"{name}/", "sha256": file_hash(there), "frames": len(frames)}
    told |= {"texts": [], "model": {"sha256": "ab"}, "inputs": {}, "acceleration": method and {"method": method}}
    path.write_text(json.dumps(told))


@pytest.fixture(autouse=True)
def extras() -> None:
    for name in ("matplotlib", "torchmetrics"):
        pytest.importorskip(name)


def shifted(by: int) -> Any:
    return np.full((2, 16, 16, 3), 100 + by, np.uint8)


def dB(by: float) -> float:
    return 20 * math.log10(255 / by)


def test_quality_against_exact_twins(studio: Studio, tmp_path: Path) -> None:
    from videoaccel.reporting.report import report

    mixed = np.concatenate([shifted(10)[:1], shifted(0)[:1]])  # a frame that is the same counts 100 dB
    made(studio, {"fora": shifted(10), "teacache": mixed, "pab": shifted(0)})
    made(studio, {"fora": shifted(20)}, seed=1)
    written, data, table = report([studio.out], tmp_path / "report")
    quality = json.loads(data.read_text())["renders"][0]["quality"]
    by_method = {group["label"].split()[0].rstrip(":"): group for group in quality["groups"]}
    assert quality["pairs"] == 4 and quality["without"] == 0 and quality["failed"] == []
    assert by_method["fora"]["clips"] == 2 and by_method["pab"]["equal"] == 1 and by_method["pab"]["psnr"] == "inf"
    assert by_method["fora"]["psnr"] == pytest.approx((dB(10) + dB(20)) / 2)
    assert by_method["fora"]["worst_psnr"] == pytest.approx(dB(20))
    assert by_method["teacache"]["psnr"] == pytest.approx((dB(10) + 100) / 2)
    light = (2 * 100 * 110 + 6.5025) / (100**2 + 110**2 + 6.5025)  # SSIM of two flat pictures
    assert by_method["fora"]["worst_ssim"] < light and by_method["teacache"]["ssim"] == pytest.approx((light + 1) / 2)
    assert [row["psnr"] for row in quality["clips"]] == [*sorted(row["psnr"] for row in quality["clips"][:3]), "inf"]
    text = written.read_text()
    assert "Quality against exact twins" in text and text.count("its worst clip") == 2, "equal clips have no worst"
    lines = list(csv.DictReader(table.read_text().splitlines()))
    (worst,) = (float(line["value"]) for line in lines if line["quantity"] == "worst_psnr" and "fora" in line["what"])
    assert worst == pytest.approx(dB(20))


def test_a_second_report_measures_what_is_new(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from videoaccel.reporting import twins
    from videoaccel.reporting.report import report

    calls: list[Path] = []
    plain = twins._measure
    monkeypatch.setattr(twins, "_measure", lambda path, *a, **k: (calls.append(path), plain(path, *a, **k))[1])
    folder = made(studio, {"fora": shifted(10), "pab": shifted(0)})
    first = report([studio.out], tmp_path / "report")[0].read_text()
    assert len(calls) == 2
    assert report([studio.out], tmp_path / "report")[0].read_text() == first and len(calls) == 2
    (place,) = (path for path in folder.finished().values() if method_told(folder.record(path.name)) != "exact"
                and folder.record(path.name)["acceleration"]["method"] == "fora")  # fmt: skip
    put(place, place.name.rpartition("-")[0], shifted(30), method="fora")
    assert "18.59" in report([studio.out], tmp_path / "report")[0].read_text() and len(calls) == 3
    (tmp_path / "report" / twins.MEASURED).write_text('{"key": 1}\n["a"]\n{"key": "k", "psnr": "x", "ssim": 1}\n{')
    assert "18.59" in report([studio.out], tmp_path / "report")[0].read_text() and len(calls) == 5


def test_clips_that_cannot_be_measured_are_counted_and_passed_over(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videoaccel.rendering import copies
    from videoaccel.reporting.report import report

    names = ("fora", "pab", "teacache", "fastercache", "duca")
    folder = made(studio, dict.fromkeys(names, shifted(10)))
    places = {mapping["method"]: path for path in folder.finished().values()
              if (mapping := folder.record(path.name)["acceleration"])}  # fmt: skip
    name = places["fora"].name.rpartition("-")[0]
    put(places["fora"], name, np.zeros((3, 16, 16, 3), np.uint8), method="fora")
    put(places["pab"], name, np.zeros((2, 16, 24, 3), np.uint8), method="pab")
    (places["teacache"] / name / "00000.png").write_bytes(b"no")
    outside = tmp_path / "secret.png"
    shutil.copy(places["fastercache"] / name / "00000.png", outside)
    (places["fastercache"] / name / "00000.png").unlink()
    (places["fastercache"] / name / "00000.png").symlink_to(outside)
    data = report([studio.out], tmp_path / "report")[1]
    quality = json.loads(data.read_text())["renders"][0]["quality"]
    failed = {one["clip"]: one["error"] for one in quality["failed"]}
    assert [row["clip"] for row in quality["clips"]] == [places["duca"].name] and len(failed) == 4
    assert "other numbers of frames" in failed[places["fora"].name]
    assert "other sizes" in failed[places["pab"].name]
    assert "not the clip that its sidecar tells of" in failed[places["teacache"].name]
    assert "/tmp" not in "".join(failed[places[one].name] for one in ("fora", "pab", "teacache")), "nobody knows copies"
    monkeypatch.setattr(copies, "MOST_BYTES", 100)
    data = report([studio.out], tmp_path / "other")[1]
    quality = json.loads(data.read_text())["renders"][0]["quality"]
    assert quality["groups"] == [] and any("more than 100" in one["error"] for one in quality["failed"])


def test_nothing_is_said_where_there_is_no_twin(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videoaccel.reporting.report import report

    folder = made(studio, {"fora": shifted(10)})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torchmetrics" else object())
    text = report([studio.out], tmp_path / "report")[0].read_text()
    assert "1 pair, not measured" in text and "pip install &#x27;videoaccel[eval]&#x27; brings it" in text
    assert "Quality" not in report([studio.out], tmp_path / "report", quality=False)[0].read_text()
    (exact,) = (path for path in folder.finished().values() if is_exact(folder.record(path.name)))
    shutil.rmtree(exact)
    assert "Quality" not in report([studio.out], tmp_path / "report")[0].read_text()


@pytest.mark.parametrize("text", [HOSTILE[0], HOSTILE[3], HOSTILE[6], HOSTILE[14]])
def test_hostile_texts_of_twins(text: str, studio: Studio, tmp_path: Path) -> None:
    from tests.common.test_borders import check_page
    from videoaccel.reporting.report import report

    folder = made(studio, {"fora": shifted(10)})
    for path in folder.finished().values():
        (sidecar,) = path.glob("*.json")
        told = json.loads(sidecar.read_text())
        told["prompt"] = text
        if told["acceleration"]:
            told["acceleration"]["method"] = text
            told["settings"]["accel_options"] = {text: text}
        sidecar.write_text(json.dumps(told))
    written, _, table = report([studio.out], tmp_path / "report", title=text)
    check_page(written.read_text(), scripts=0)
    assert "its worst clip" in written.read_text()
    cells = [cell for line in csv.reader(table.read_text().splitlines()) for cell in line]
    assert not any(cell.lstrip().startswith(("=", "@")) for cell in cells)
    check_page(page(text, [read_entry(folder, path.name) or {} for path in folder.finished().values()]), scripts=1)
