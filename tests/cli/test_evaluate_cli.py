"""``videoaccel evaluate`` as a user meets it."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import Cli, Result
from tests.eval import standin
from tests.ranks import RankPools
from videoaccel.eval.vbench import QUALITY, SEMANTIC
from videoaccel.eval.world import Scene, render
from videoaccel.evaluation import evaluate as evaluation
from videoaccel.media.writer import Writer

SENTENCES = ("a red circle moves left on a dark blue background", "a red star grows on a dark green background")
Evaluate = Callable[..., Result]


def write(path: Path, frames: np.ndarray, fps: float = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(f"{path}/" if not path.suffix else path, fps=fps) as writer:
        writer.write(frames)


def drawn(sentence: str, *, side: int = 64, frames: int = 9) -> np.ndarray:
    return render(Scene.parse(sentence), rng=np.random.default_rng(0), frames=frames, side=side)


def noisy(frames: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, level, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def evaluate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs ``videoaccel evaluate clips`` where two clips and their references are; one equals its reference."""
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(Path("networks").absolute()))
    monkeypatch.setenv("TORCH_HOME", str(Path("torch").absolute()))
    for sentence, level in zip(SENTENCES, (0, 12), strict=True):
        write(Path(f"exact/{sentence}-0"), drawn(sentence))
        write(Path(f"clips/{sentence}-0"), noisy(drawn(sentence), level))

    def call(*arguments: object, suite: str = "demo", out: str = "run", folder: str = "clips") -> Result:
        return cli("evaluate", folder, "-o", out, "--suite", suite, *arguments)

    return call


def record(out: str = "run") -> Any:
    return json.loads(Path(f"{out}/results.json").read_text())


def scores(out: str = "run") -> dict[str, Any]:
    return {score["metric"]: score for score in record(out)["scores"]}


def test_the_demo_world_needs_no_download(evaluate: Evaluate) -> None:
    done = evaluate()
    assert done.code == 0, done.err
    assert {name: score["score"] for name, score in scores().items()} == {
        f"world_{name}": 1.0 for name in ("background", "colour", "shape", "motion", "scene")
    }
    assert "whole scene" in done.out and "wrote run/results.json" in done.out and "measure clips" in done.err
    table = list(csv.DictReader(Path("run/scores.csv").read_text().splitlines()))
    assert [row["metric"] for row in table] == list(scores()) and float(table[0]["score"]) == 1.0
    wrong = [f"{SENTENCES[1]}-0", f"{SENTENCES[0]}-0"]
    Path("book.json").write_text(json.dumps(dict(zip(wrong, SENTENCES, strict=True))))
    assert evaluate("--prompts", "book.json", "--quiet").err == ""
    assert scores()["world_scene"]["score"] == 0


def test_fidelity_names_the_worst_and_lists_what_is_missing(evaluate: Evaluate) -> None:
    done = evaluate("--reference", "exact", suite="fidelity")
    assert done.code == 3, done.err
    found, whole = scores(), record()
    assert found["psnr"]["worst"] == f"{SENTENCES[1]}-0" and found["psnr"]["identical"] == 1
    same, other = whole["rows"]["psnr"]
    assert same["value"] is None and same["identical"] is True and other["identical"] is False
    assert found["psnr"]["score"] == pytest.approx((100 + other["value"]) / 2)
    assert whole["rows"]["ssim"][0]["value"] == pytest.approx(1.0) and "100 dB" in whole["note"]
    assert found["ms_ssim"]["not_applicable"] == 2 and found["ms_ssim"]["score"] is None
    place = Path("networks/alexnet_model/alexnet-owt-7be5be79.pth").absolute()
    for name in ("lpips", "tlp"):
        assert str(place) in whole["not_run"][name][0]
    assert f"not run: lpips, tlp: {place.name} is missing: mkdir -p '{place.parent}'" in done.out
    standin.save("alexnet", place)
    again = evaluate("--reference", "exact", suite="fidelity")
    assert again.code == 0 and scores()["lpips"]["score"] > 0 and scores()["lpips"]["worst"] == f"{SENTENCES[1]}-0"
    why = "ms_ssim: 2 clips: five scales need pictures of at least 176 pixels a side, got 64x64"
    assert f"not applicable: {why}\n" in again.out and f"<li>{why}</li>" in Path("run/report.html").read_text()
    assert "10 of 14 measurements were there already" in again.out and "already" not in done.out


def test_the_report_is_one_page(evaluate: Evaluate) -> None:
    """Nothing is fetched from anywhere; frames of the worst clip stand beside the reference's and their difference."""
    assert evaluate("--reference", "exact", "--suite", "ssim,demo", suite="psnr").code == 0, "both count"
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", page)
    assert page.count("<h3>") == 2 and page.count(">reference<") == 2 and page.count(">4x difference<") == 2
    pairs = json.loads(re.search(r"id=pairs>(.*?)</script>", page, re.S).group(1))
    assert [pair["name"] for pair in pairs] == [f"{SENTENCES[1]}-0", f"{SENTENCES[0]}-0"]
    for side in ("clip", "reference"):
        frames = [Image.open(io.BytesIO(base64.b64decode(film.split(",")[1]))) for film in pairs[1][side]]
        assert len(frames) == 9
        assert np.array_equal(np.array(frames[4].convert("RGB")), drawn(SENTENCES[0])[4])  # equal, and without loss
    assert page.count("<svg") == 1 and page.count("<text") == 5  # the demo world's five axes
    Path("clips/<b>.mp4").write_bytes(b"")
    assert evaluate(suite="demo").code == 1
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;.mp4: clips/&lt;b&gt;.mp4 is empty" in page and "<b>" not in page


def test_vbench_without_networks_withholds_the_total(evaluate: Evaluate) -> None:
    done = evaluate(suite="vbench")
    assert done.code == 3
    whole = record()
    assert [score["metric"] for score in whole["scores"]] == ["temporal_flickering"]
    assert set(whole["not_run"]) == {*QUALITY, *SEMANTIC} - {"temporal_flickering"}
    assert whole["vbench"]["total"] is None and "subject_consistency" in whole["vbench"]["missing"]
    assert "total - (withheld: no score of subject_consistency" in done.out
    assert "--official PYTHON" in whole["not_run"]["imaging_quality"][0]
    official = json.loads(Path("run/vbench_eval_results.json").read_text())
    score, entries = official["temporal_flickering"]
    assert score == sum(entry["video_results"] for entry in entries) / 2
    assert entries[0]["video_path"].startswith("clips/")


def test_what_is_wrong_with_clips_is_said_and_counted(evaluate: Evaluate) -> None:
    good = drawn(SENTENCES[0])
    Path("clips/empty.mp4").write_bytes(b"")
    Path("clips/noise.mp4").write_bytes(bytes(range(256)) * 40)
    write(Path("clips/one"), good[:1])
    for name, frames in (("one", good[:1]), ("shorter", good), ("smaller", good), ("empty.mp4", good)):
        write(Path("exact") / name, frames)
    write(Path("clips/shorter"), good[:5])
    write(Path("clips/smaller"), good[:, :32, :32])
    write(Path("clips/lonely"), good)
    done = evaluate("--reference", "exact", suite="psnr,temporal_flickering")
    assert done.code == 1 and "5 clips could not be measured" not in done.err
    failures = record()["failures"]
    assert failures["empty.mp4"]["psnr"] == "clips/empty.mp4 is empty"
    assert "is not a readable video" in failures["noise.mp4"]["temporal_flickering"]
    assert failures["one"] == {"temporal_flickering": "changes between frames need at least 2 frames, got 1"}
    assert "5 frames of 64x64, its reference 9 frames" in failures["shorter"]["psnr"]
    assert "9 frames of 32x32" in failures["smaller"]["psnr"]
    assert failures["lonely"] == {"psnr": "there is no reference clip of this name"}
    psnr = scores()["psnr"]
    assert (psnr["measured"], psnr["failed"], psnr["score"]) == (3, 5, None) and psnr["score_of_measured"] > 0
    assert "withheld" in done.out and "6 clips could not be measured" in done.err


def test_a_stopped_evaluation_goes_on(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate().code == 0
    before, rows = record(), Path("run/rows-0.jsonl")
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # cut off in the middle of a line
    read: list[str] = []
    real = evaluation.measure

    def counting(clip: Any, *arguments: Any, **options: Any) -> Any:
        known = len(options["rows"].known)
        yield from real(clip, *arguments, **options)
        read.extend([clip.name] * (len(options["rows"].known) - known))

    monkeypatch.setattr(evaluation, "measure", counting)
    assert evaluate().code == 0
    assert len(read) == len(lines) - 5 and record()["scores"] == before["scores"]
    write(Path(f"clips/{SENTENCES[0]}-0"), drawn(SENTENCES[1]))  # another clip under the name is measured anew
    assert evaluate().code == 0
    assert scores()["world_scene"]["score"] == 0.5


def test_lines_of_prompts_go_to_clips_by_number(evaluate: Evaluate) -> None:
    def given(*lines: str) -> Result:
        Path("lines.txt").write_text("\n".join(lines))
        return evaluate("--prompts", "lines.txt", folder="made")

    for number, sentence in enumerate(SENTENCES):
        write(Path(f"made/clip-{number}"), drawn(sentence))
    assert given(*SENTENCES).code == 0 and scores()["world_scene"]["score"] == 1.0
    assert given(*reversed(SENTENCES)).code == 0 and scores()["world_scene"]["score"] == 0.0
    refused = given(SENTENCES[0])
    assert refused.code == 2 and "clip-1 is named neither after a prompt nor after one of lines 0 to 0" in refused.err
    Path("made/clip-1.json").write_text(json.dumps({"prompt": "another"}))
    refused = given(*SENTENCES)
    assert refused.code == 2 and f"clip-1 was made from 'another', and line 1 is '{SENTENCES[1]}'" in refused.err
    Path("book.json").write_text(json.dumps({"clip-7": "a"}))
    refused = evaluate("--prompts", "book.json", folder="made")
    assert refused.code == 2 and "the prompts name 'clip-7', and made holds no clip of this name" in refused.err


def test_dimensions_count_the_clips_of_their_prompts(evaluate: Evaluate) -> None:
    rows = [
        {"prompt_en": SENTENCES[0], "dimension": ["temporal_flickering"]},
        {"prompt_en": SENTENCES[1], "dimension": ["scene"]},
        {"prompt_en": "a dog", "dimension": ["scene"]},
    ]
    Path("info.json").write_text(json.dumps(rows))
    write(Path(f"clips/{SENTENCES[0]}-5"), drawn(SENTENCES[0]))
    done = evaluate("--prompts", "info.json", suite="temporal_flickering")
    assert done.code == 0, done.err
    found = scores()["temporal_flickering"]
    assert (found["measured"], found["not_applicable"]) == (1, 2)
    assert [row.get("not_applicable", "")[:30] for row in record()["rows"]["temporal_flickering"]] == [
        "", "VBench counts samples 0 to 4 o", "the prompt was written for oth",
    ]  # fmt: skip
    assert record()["vbench"]["withheld"] == "1 prompts have no clip, the first 'a dog'"


@pytest.mark.parametrize(
    ("arguments", "suite", "message"),
    [
        ((), "fidelty", "no suite or metric is called 'fidelty'; suites are demo, fidelity, vbench, all"),
        ((), "psnr", "psnr compares with references; say where they are: --reference DIR"),
        (("--reader", "cv2"), "demo", "no reader is called 'cv2'; there are pyav, decord"),
        (("--prompts", "none.txt"), "demo", "none.txt does not exist"),
        (("--reference", "none"), "fidelity", "none does not exist"),
        (("--official", "no-such-python"), "imaging_quality", "--official no-such-python cannot be run"),
        (("--official", sys.executable), "imaging_quality", "has no vbench"),
        (("--official", sys.executable), "demo,imaging_quality", "has no vbench"),
        (("--device", "gpu"), "demo", "unknown device 'gpu'; there are cpu, cuda, cuda:N and mps"),
        (("--reference", "others"), "fidelity", "others holds no clip of a name that is wanted, such as a red circle"),
    ],
)
def test_bad_input(
    evaluate: Evaluate, arguments: tuple[str, ...], suite: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoaccel.evaluation.evaluate.measure", lambda *_, **__: pytest.fail("clips were measured"))
    Path("others").mkdir()
    done = evaluate(*arguments, suite=suite)
    assert done.code == 2 and message in done.err, done.err


def test_what_references_lack_is_said_before_anything_is_measured(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoaccel.evaluation.evaluate.measure", lambda *_, **__: iter([0 // 0]))
    write(Path(f"fewer/{SENTENCES[0]}-0"), drawn(SENTENCES[0], side=32))
    done = evaluate("--reference", "fewer", suite="psnr")
    assert f"no reference in fewer for 1 of 2 clips, first {SENTENCES[1]}-0" in done.err
    assert f"1 of the first 1 clip, such as {SENTENCES[0]}-0, 64x64 beside 32x32" in done.err
    assert done.err.endswith("measure clips\nvideoaccel: integer division or modulo by zero\n")


def test_an_empty_folder_is_an_error(cli: Cli) -> None:
    Path("clips").mkdir()
    Path("clips/notes.txt").write_text("x")
    done = cli("evaluate", "clips", "-o", "run")
    assert done.code == 2 and "clips holds no clip; they end in .mp4" in done.err


@pytest.mark.parametrize("asked", ["out", "out/clips"])
def test_a_renders_posters_are_no_clips(cli: Cli, asked: str) -> None:
    Path("out/.render").mkdir(parents=True)
    Path("out/clips/a-1").mkdir(parents=True)
    for name in ("a.mp4", "a.json", "poster.jpg"):
        Path("out/clips/a-1", name).write_text("x")
    done = cli("evaluate", asked, "-o", "run")
    said = f"{asked} has a folder for each clip, as a render; videoaccel report out measures it"
    assert done.code == 2 and said in done.err


FAKE = '''
"""Stands in for the official package: the interface that the bridge uses, without networks."""
import json, os, pathlib

class VBench:
    def __init__(self, device, full_info_json, output_dir):
        assert os.environ["VBENCH_CACHE_DIR"].endswith("networks")
        self.out = output_dir

    def evaluate(self, videos_path, name, dimension_list, local, mode, prompt_list=()):
        (dimension,) = dimension_list
        if dimension == "motion_smoothness":
            raise RuntimeError("no GPU")
        clips = sorted(str(path) for path in pathlib.Path(videos_path).iterdir())
        assert mode == "vbench_standard" or set(prompt_list) == {os.path.basename(clip) for clip in clips}
        entries = [{"video_path": clip, "video_results": 40.0 + i} for i, clip in enumerate(clips)]
        json.dump({dimension: [0.405, entries]}, open(f"{self.out}/{name}_eval_results.json", "w"))
'''


def test_the_official_package_runs_in_its_own_python(evaluate: Evaluate, tmp_path: Path) -> None:
    package = tmp_path / "site/vbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "VBench_full_info.json").write_text("[]")
    (tmp_path / "site/torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
        "class library:\n    class Library:\n"
        "        def __init__(self, *a): pass\n        def define(self, schema): pass\n"
        "def device(name): return name\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    done = evaluate("--official", python, suite="imaging_quality,motion_smoothness,scene")
    assert done.code == 3, done.err
    found, whole = scores()["imaging_quality"], record()
    assert found["score"] == pytest.approx(0.405) and found["measured"] == 2
    assert whole["official_scores"] == {"imaging_quality": 0.405}
    assert "RuntimeError: no GPU" in whole["not_run"]["motion_smoothness"][0]
    assert whole["not_run"]["scene"] == ["needs --prompts VBench_full_info.json"] and len(whole["not_run"]) == 2


def on_a_rank(folder: str, out: str) -> list[tuple[str, float | None]]:
    found = evaluation.evaluate(folder, out=out, suite=("demo", "temporal_flickering"))
    return [(result.metric, result.score) for result in found.results]


def test_two_ranks_give_the_scores_of_one(tmp_path: Path, ranks: RankPools) -> None:
    for i, sentence in enumerate((*SENTENCES, SENTENCES[0])):
        write(tmp_path / f"clips/{sentence}-{i}", noisy(drawn(sentence), 3 * i))
    alone = on_a_rank(str(tmp_path / "clips"), str(tmp_path / "alone"))
    both = ranks(2).run(on_a_rank, str(tmp_path / "clips"), str(tmp_path / "both"))
    assert both == [alone] * 2
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "both"))
    assert one["rows"] == two["rows"] and (one["ranks"], two["ranks"]) == (1, 2)


def test_decord_reads_the_same_frames(evaluate: Evaluate) -> None:
    pytest.importorskip("decord", reason="decord is not installed")
    from videoaccel.evaluation.clips import read_clip

    write(Path("clips/x.mp4"), drawn(SENTENCES[0]))
    (a, fps), (b, other) = (read_clip(Path("clips/x.mp4"), name) for name in ("pyav", "decord"))
    assert np.array_equal(a, b) and fps == pytest.approx(other)
    code = "import torch; from videoaccel.media.decord_door import read_with_decord; read_with_decord('clips/x.mp4')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0
    Path("clips/x.mp4").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"decord cannot read clips/x\.mp4"):
        read_clip(Path("clips/x.mp4"), "decord")


def test_an_evaluation_that_measured_nothing_is_a_failure(evaluate: Evaluate) -> None:
    """Clips that are not named after the prompts of the suite count in no dimension."""
    Path("info.json").write_text(json.dumps([{"prompt_en": "a cat", "dimension": ["temporal_flickering"]}]))
    done = evaluate("--prompts", "info.json", suite="temporal_flickering")
    assert done.code == 1 and "nothing was measured" in done.err


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_transparent_clips_lie_on_the_ground_that_is_asked_for(
    evaluate: Evaluate, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decord reads no folders of frames, so both readers agree; without the option the ground is white."""
    monkeypatch.setattr("videoaccel.cli.evaluate.need", lambda *_: None)  # it need not be installed for these
    for name, number in (("clips", 4), ("exact", 3)):
        folder = Path(f"see-through/{name}/a")
        folder.mkdir(parents=True)
        frame = np.zeros((64, 64, 4), np.uint8)
        frame[16:48, 16:48] = (220, 30, 30, 255)
        Image.fromarray(frame if number == 4 else frame[..., :3]).save(folder / "0.png")
    options = {"folder": "see-through/clips", "suite": "psnr"}
    reference = ("--reference", "see-through/exact", "--reader", reader, "--quiet")
    assert evaluate(*reference, "--ground", "black", **options, out="black").code == 0
    assert record("black")["ground"] == "black" and scores("black")["psnr"]["identical"] == 1
    assert evaluate(*reference, **options, out="white").code == 0
    assert "ground" not in record("white") and scores("white")["psnr"]["score"] < 12
    assert evaluate(*reference, "--ground", "black", **options, out="white").code == 0  # measured anew, not taken over
    assert scores("white")["psnr"]["identical"] == 1
    wrong = evaluate("--ground", "clear", **options)
    assert wrong.code == 2 and "a colour such as white or #808080 is wanted, got 'clear'" in wrong.err
