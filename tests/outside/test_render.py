"""Job files of pipelines of diffusers, beside our own models."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Cli
from tests.outside.rank_work import rendered
from tests.ranks import RankPools
from videoaccel.media.reader import read_video


def jobs(path: str, *lines: dict[str, Any]) -> str:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def records(folder: str) -> dict[str, Any]:
    paths = sorted(Path(folder, "clips").glob("*/*.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def test_clips_pictures_and_sound_of_one_file(
    cli: Cli, wan_folder: Path, dit_folder: Path, sound_folder: Path, pipeline_folder: Path
) -> None:
    wan = {"model": str(wan_folder), "size": "32x32", "frames": 5, "steps": 8, "prompt": "a cat"}
    file = jobs(
        "jobs.jsonl",
        {**wan, "accel": ["exact", "fora"], "args": {"max_sequence_length": 16}},
        {"model": str(dit_folder), "prompt": "goldfish", "steps": 3},
        {"model": str(sound_folder), "prompt": "a cat", "steps": 3, "args": {"audio_end_in_s": 0.4}},
        {
            "model": str(pipeline_folder),
            "prompt": "a red cat",
            "steps": 2,
            "frames": 1,
            "size": "16x16",
            "format": "png",
        },
    )
    done = cli("render", file, "-o", "out", "--quiet")
    assert done.code == 0, done.err
    found = records("out")
    ends = sorted(record["output"]["file"] for record in found.values())
    assert ends == ["a-cat.mp4", "a-cat.mp4", "a-cat.wav", "a-red-cat.png", "goldfish.png"]
    calls = {record["network"]["computed"] for record in found.values() if record["output"]["file"] == "a-cat.mp4"}
    assert calls == {16, 10}, "exact, and fora"
    assert "a-cat.wav" in Path("out/index.html").read_text()
    again = cli("render", file, "-o", "out")
    assert again.code == 0 and "5 of 5 clips done (0 made now" in again.out
    name = next(name for name, record in found.items() if record["acceleration"] and "network" in record)
    same = cli("generate", "--from", f"out/clips/{name}/a-cat.json", "-o", "again.mp4")
    assert same.code == 0 and "  the same bytes as" in same.out


def test_identities_are_of_what_decides_pixels(cli: Cli, dit_folder: Path, picture: str) -> None:
    def names(**more: Any) -> set[str]:
        file = jobs("one.jsonl", {"model": str(dit_folder), "prompt": "1", "steps": 3, **more})
        out = cli("render", file, "-o", "r", "--dry-run", "--no-time").out
        return {line.split("clips/")[1].split("/")[0] for line in out.splitlines() if " clips/" in f" {line.strip()}"
                and "clips/1-" in line}  # fmt: skip

    (plain,) = names()
    assert names(device="cpu", variant=None) == names(args={}) == {plain}
    others = [
        names(steps=4),
        names(guidance=3),
        names(args={"guidance_scale": 3.0}),
        names(accel="fora"),
        names(seed=1),
    ]
    assert len({plain, *(name for (name,) in others)}) == 6


def test_what_a_job_cannot_be_told(cli: Cli, dit_folder: Path) -> None:
    shared = {"model": str(dit_folder), "steps": 8}
    file = jobs(
        "jobs.jsonl",
        {**shared, "prompt": "1", "args": {"guidence_scale": 2}},
        {**shared, "prompt": "nothing known"},
        {**shared, "prompt": "1", "speedup": 2, "measure_first": 2},
        {**shared, "prompt": "1", "loops": 2},
    )
    done = cli("render", file, "-o", "out")
    assert done.code == 2
    problems = ("did you mean guidance_scale", "there is none called", "measure_first has no place", "that is for this")
    for line, message in enumerate(problems, 1):
        assert any(f"line {line}: " in text and message in text.replace("--", "") for text in done.err.splitlines()), (
            line
        )
    ranks = cli("render", jobs("two.jsonl", {**shared, "prompt": "1"}), "-o", "out", "--gpus", 2, "--sp", 2)
    assert ranks.code == 2 and "a DiTPipeline is a DiTTransformer2DModel, and diffusers cannot spread it" in ranks.err
    some = cli("render", "two.jsonl", "-o", "out", "--gpus", 4, "--sp", 2)
    assert some.code == 2 and "all of them share each clip: leave sp out, or give sp=4" in some.err


def test_ranks_that_share_each_clip(ranks: RankPools, cli: Cli, wan_folder: Path, tmp_path: Path) -> None:
    line = {"model": str(wan_folder), "size": "32x32", "frames": 5, "steps": 8, "prompt": "a cat", "device": "cpu"}
    file = str(Path(jobs("jobs.jsonl", {**line, "accel": ["exact", "fora"]})).absolute())
    for made in (2, 0):
        assert ranks(2).run(rendered, file, str(tmp_path / "two")) == [made] * 2
    assert cli("render", file, "-o", "one", "--quiet").code == 0
    one, two = (list(records(folder).values()) for folder in ("one", "two"))
    assert [record["ranks"]["sequence"] for record in two] == [2, 2] and not records("one").keys() & records(
        "two"
    ).keys()

    def frames(folder: str) -> dict[int, Any]:
        clips = sorted(Path(folder, "clips").glob("*/a-cat.mp4"))
        found = records(folder)
        return {found[clip.parent.name]["network"]["computed"]: read_video(clip)[0].astype(int) for clip in clips}

    for computed, clip in frames("one").items():
        assert abs(frames("two")[computed] - clip).max() <= 1
    assert [record["settings"]["gpus"] for record in two] == [2, 2] and len(one) == 2, "and so they are made again"


@pytest.mark.parametrize("measured", [False, True])
def test_methods_that_plan_are_checked_first(cli: Cli, dit_folder: Path, measured: bool) -> None:
    line = {"model": str(dit_folder), "prompt": "1", "steps": 12, "speedup": 2}
    if measured:
        assert (
            cli(
                "calibrate", "--model", dit_folder, "--steps", 12, "--samples", 1, "--curve", 0, "-o", "p.safetensors"
            ).code
            == 0
        )
        line["prior"] = "p.safetensors"
    done = cli("render", jobs("jobs.jsonl", line), "-o", "out", "--quiet")
    assert done.code == (0 if measured else 2)
    if measured:
        (record,) = records("out").values()
        assert record["network"]["computed"] == 6 and record["acceleration"]["measured"] is False
    else:
        assert "line 1: there is no prior of this pipeline for this call" in done.err and not records("out")
