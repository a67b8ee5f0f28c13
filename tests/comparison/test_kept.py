"""Clips that a comparison keeps as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_pipeline import tiny_pipeline
from videoaccel.common.names import distinct_name
from videoaccel.comparison.bench import Bench
from videoaccel.comparison.clip import Clip
from videoaccel.comparison.compare import compare
from videoaccel.comparison.kept import KeptClips
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.worst import file_name
from videoaccel.evaluation.evaluate import evaluate
from videoaccel.media.pictures import read_image
from videoaccel.media.reader import read_video

PROMPT = "a red circle"
ROW: dict[str, Any] = {"method": "fora", "setting": "period=2", "prior": "", "prompt": PROMPT, "seed": 3}


def kept(out: Path, **options: Any) -> list[str]:
    """What a comparison of FORA keeps."""
    given: dict[str, Any] = {"methods": ["fora"], "values": {"fora": {"period": [2]}}, "seeds": [0, 3]}
    given |= {"controls": False, "picture": False, "repeats": 0, "num_inference_steps": 4, "num_frames": 1}
    made = compare(tiny_pipeline(), [PROMPT], out=out, **{**given, **options})
    assert (out / "clips" in made.files) == options.get("keep_clips", False)
    return sorted(path.relative_to(out / "clips").as_posix() for path in (out / "clips").glob("*/*"))


def test_every_clip_of_every_setting_is_a_file_as_vbench_names_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    names = kept(out, keep_clips=True)
    assert names == [f"{folder}/{PROMPT}-{seed}.png" for folder in ("exact", "fora-period-2") for seed in (0, 3)]
    pipe = tiny_pipeline()
    bench = Bench(pipe, {PROMPT: pipe.encode_prompt(PROMPT)}, {"num_inference_steps": 4, "num_frames": 1})
    frames = bench.decode(bench.make(Clip(PROMPT, 3), Setting("exact")))
    assert np.array_equal(read_image(out / "clips" / names[1]), frames)


def test_a_comparison_without_files_goes_on_with_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert kept(out) == []
    rows = (out / "rows.jsonl").read_text().splitlines()
    names = kept(out, keep_clips=True)
    gone = out / "clips" / names[-1]
    before = gone.read_bytes()
    gone.unlink()
    assert kept(out, keep_clips=True) == names and gone.read_bytes() == before
    after = [line for line in (out / "rows.jsonl").read_text().splitlines() if '"resumed"' not in line]
    assert after == rows, "nothing is measured twice"


def test_kept_films_are_measured_by_evaluate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert len(kept(out, keep_clips=True, num_frames=5, seeds=[0])) == 2
    frames, fps = read_video(out / "clips" / "exact" / f"{PROMPT}-0.mp4")
    assert len(frames) == 5 and fps == tiny_pipeline().defaults.fps
    found = evaluate(
        out / "clips" / "fora-period-2", out=tmp_path / "e", reference=out / "clips" / "exact", suite=["fidelity"]
    )
    assert {one.metric: one.measured for one in found.results}["psnr"] == 1
    with pytest.raises(ValueError, match="suite is a list"):
        evaluate(out / "clips" / "exact", out=tmp_path / "e2", suite="fidelity")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Ein Kreis, über Wasser!", "Ein Kreis, über Wasser!-3"),
        ("", "clip-3"),
        ("../up", "up-"),
        (".hidden", "hidden-"),
        ("red/blue", "red-blue-"),
        ("two\nlines", "two-lines-"),
        ("a" * 300, "a" * 60 + "-"),
    ],
)
def test_names_of_files(tmp_path: Path, prompt: str, name: str) -> None:
    stem = KeptClips(tmp_path, fps=8, rate=None).stem({**ROW, "prompt": prompt})
    assert stem.parent == tmp_path / "clips" / "fora-period-2" and stem.name.startswith(name)
    assert len(f"{stem.name}.mp4".encode()) < 255


def test_what_differs_behind_the_cut_or_in_its_prior_has_files_of_its_own(tmp_path: Path) -> None:
    keep = KeptClips(tmp_path, fps=8, rate=None)
    far = [{**ROW, "setting": f"{'x' * 70}={k}"} for k in (1, 2)]
    rows = [*far, ROW, {**ROW, "prior": "5f2a"}, {**ROW, "prompt": "a/b"}, {**ROW, "prompt": "a:b"}]
    assert len({keep.stem(row) for row in rows}) == len(rows)
    assert len({file_name("fora", row["setting"]) for row in far}) == 2
    assert distinct_name("fora period=2") == "fora-period-2"


def test_sound_is_kept_where_its_rate_is_known(tmp_path: Path) -> None:
    sound = np.zeros((2, 100), np.float32)
    keep = KeptClips(tmp_path, fps=8, rate=8000)
    assert keep.wants(ROW) and not keep.wants({**ROW, "error": "it failed"})
    keep(ROW, sound, sound)
    assert not keep.wants(ROW) and keep.stem(ROW).with_name(f"{PROMPT}-3.wav").exists()
    with pytest.raises(ValueError, match="samples a second"):
        KeptClips(tmp_path, fps=8, rate=None)(ROW, sound, sound)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    kept(out)
    (out / "clips").write_text("")
    with pytest.raises(NotADirectoryError, match="clips belong there"):
        kept(out, keep_clips=True)
    with pytest.raises(ValueError, match="keep_clips is True or False"):
        kept(tmp_path / "other", keep_clips="yes")
