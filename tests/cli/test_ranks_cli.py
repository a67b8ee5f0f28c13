"""What the command line says of ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import ROOT, Cli, here, sidecar
from videoaccel.cli.ranks import _flags
from videoaccel.cli.verify import numbers, table
from videoaccel.parallel.degrees import Degrees
from videoaccel.verification.verdict import Verdict

TINY = ("a red circle", "--steps", "2", "--frames", "5", "--threads", "1")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--gpus", "4", "--sp", "3"), "--sp 3 does not divide 4 ranks; these would: dp 1 x cfg_parallel 2 x sp 2"),
        (("--gpus", "2", "--cfg-parallel", "2", "--guidance", "1"), "without guidance there is one branch only"),
        (("--gpus", "2", "--cfg-parallel", "2", "--accel", "tgate"), "tgate needs both guidance branches on one rank"),
        (("--gpus", "2", "--provider", "mpi"), "--provider"),
        (("--sp", "2"), "--sp 2 does not divide 1 rank"),
        (("--gpus", "6", "--sp", "2", "--dp", "2"), "--dp 2 and --sp 2 do not multiply to 6 ranks"),
        (("--gpus", "two"), "--gpus: 'two': a whole number is wanted"),
        (("--gpus", "0",), "--gpus"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_once(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    result = cli("generate", *TINY, *arguments)
    assert result.code == 2 and said in result.err and result.err.count("\n") == 1
    assert here() == []


def test_a_dry_run_says_what_ranks_would_do(cli: Cli) -> None:
    result = cli("generate", *TINY, "--gpus", "4", "--device", "cpu", "--dry-run")
    assert result.code == 0
    assert "# 4 ranks as data 1 x guidance 2 x sequence 2: each guidance branch has ranks of its own" in result.out
    assert "gpus: 4" in result.out and "sp: 2" in result.out


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_command_ends_as_its_ranks_did(cli: Cli, generate: Cli, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("videoaccel.parallel.launch.start_ranks", lambda *_, **__: code)
    assert generate(*TINY, "--gpus", "2", "--device", "cpu").code == code
    monkeypatch.setattr("sys.argv", ["videoaccel", "calibrate", "--gpus", "2"])
    assert cli("calibrate", "--gpus", "2", "--device", "cpu").code == code


def test_several_processes_where_one_does_all(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for command in (("verify",), ("plan", "--accel", "fora"), ("doctor",), ("compare", "--prompts", "p", "-o", "o")):
        result = cli(*command)
        assert result.code == 2
        assert f"rank 1: videoaccel {command[0]} runs in one process; start it without torchrun" in result.err


def test_options_that_no_method_has(cli: Cli) -> None:
    result = cli("verify", "--accel", "exact,fora", "--set", "accel_options.perio=2")
    assert result.code == 2 and "--set accel_options: 'perio' is no field of exact, fora" in result.err


def test_numbers_of_ranks() -> None:
    assert numbers("1, 2,4") == [1, 2, 4]
    for text in ("", "two", "0", "1,,2"):
        with pytest.raises(ValueError, match="such as 1,2,4"):
            numbers(text)
    assert _flags({"--quiet": True, "--debug": False, "--from": "a.json", "--x": None}) == [
        "--quiet",
        "--from",
        "a.json",
    ]


def test_a_plan_weighs_meshes(cli: Cli) -> None:
    result = cli("plan", "--gpus", "8", "--link", "10", "--no-time", "--json", "--frames", "17", "--quiet")
    assert result.code == 0, result.err
    mesh: Any = json.loads(result.out)["mesh"]
    names = {(c["degrees"]["guidance"], c["degrees"]["sequence"], c["scheme"]) for c in mesh["choices"]}
    assert names == {(2, 4, "dsp"), (2, 4, "ulysses"), (1, 8, "dsp"), (1, 8, "ulysses")}
    assert all(choice["predicted_ms"] is None for choice in mesh["choices"])
    assert "5 latent frames on 8 ranks pad spatial attention by 60%" in mesh["recommended"]
    assert mesh["choices"][0]["degrees"]["guidance"] == 2
    text = cli("plan", "--gpus", "2", "--no-time", "--quiet").out
    assert "Mesh: 2 ranks" in text and "no times" in text
    assert "generate does so if told --sequence-parallel ulysses" in cli("plan", "--gpus", "8", "--no-time").out
    assert cli("plan", "--accel", "fora", "--link", "3").code == 2


def test_a_verdict_is_a_line() -> None:
    close = dict.fromkeys(("text", "noise", "pass", "latents", "frames"), 0.0)
    good = Verdict("off", Degrees(1, 2, 2), close, True, True)
    lines = table([good, Verdict("fora", Degrees(1, 1, 2), {**close, "latents": 2e-4}, False)]).splitlines()
    assert (
        good.holds and lines[2].startswith("off               4 (2 x 2)") and lines[2].endswith("equal, bits of exact")
    )
    assert lines[3].endswith("DIFFERENT  FAILS") and lines[4] == "1 of 2 fail"
    rounded = table([Verdict("fora", Degrees(1, 1, 2), {**close, "frames": 1.0}, True)])
    assert "frames of equal latents may differ by one grey level" in rounded and rounded.endswith("all 1 hold")
    wrong = [{"latents": float("nan")}, {"text": 1e-9}, {"frames": 2.0}]
    assert not any(Verdict("exact", Degrees(), {**close, **one}, True).holds for one in wrong)
    assert not Verdict("off", Degrees(), close, True, False).holds


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are processes of their own, started in another folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_ranks_started_here_make_the_clip_of_one(generate: Cli, importable: None) -> None:
    one = generate("a red circle", "-o", "one/", "--threads", "1")
    two = generate("a red circle", "-o", "two/", "--threads", "1", "--gpus", "2", "--device", "cpu")
    assert (one.code, two.code) == (0, 0), two.err
    assert two.out.count("17 frames") == 1, "one rank speaks"
    assert sidecar("two.json")["ranks"]["guidance"] == 2 and sidecar("two.json")["settings"]["gpus"] == 2
    assert "ranks" not in sidecar("one.json")
    for path in sorted(Path("one").iterdir()):
        pictures = [np.asarray(Image.open(folder / path.name)).astype(int) for folder in (Path("one"), Path("two"))]
        assert abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.slow
def test_verify_proves_it(cli: Cli, pipeline_folder: Path, importable: None) -> None:
    options = ("--model", pipeline_folder, "--frames", "5", "--steps", "3", "--json", "--quiet")
    options = (*options, "--set", "accel_options.period=2")  # for those that have one
    result = cli("verify", "--ranks", "1,2", "--accel", "exact,off,fora", *options)
    assert result.code == 0, result.err
    verdicts = json.loads(result.out)
    assert [(v["method"], v["guidance"], v["sequence"]) for v in verdicts if v["method"] == "off"] == [
        ("off", 1, 1), ("off", 2, 1), ("off", 1, 2),
    ]  # fmt: skip
    assert all(v["holds"] for v in verdicts) and all(v["bits_of_exact"] for v in verdicts if v["method"] == "off")
