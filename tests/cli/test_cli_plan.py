"""``videoaccel calibrate`` and ``videoaccel plan`` as a user meets them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import Cli, here
from tests.models.test_lora import saved
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.planning.prior import Prior

FEW = ["--steps", "6", "--frames", "5", "--samples", "1", "--replay-samples", "1", "--methods", "soda"]


@pytest.fixture
def calibrate(cli: Cli, pipeline_folder: Path) -> Cli:
    return lambda *given, **stdin: cli("calibrate", "--model", pipeline_folder, *FEW, *given, **stdin)


@pytest.fixture
def plan(cli: Cli, pipeline_folder: Path) -> Cli:
    return lambda *given, **stdin: cli(
        "plan", "--model", pipeline_folder, *["--steps", "6", "--frames", "5"], *given, **stdin
    )


def test_calibrate_then_plan_then_generate(calibrate: Cli, plan: Cli, cli: Cli, pipeline_folder: Path) -> None:
    done = calibrate()
    assert done.code == 0 and " 1 sample, " in done.out and " KiB\n" in done.out and "soda.cache (1)" in done.out
    assert "influences against 20 replays: correlation " in done.out
    lines = done.err.splitlines()
    assert lines[0] == "encode text" and any(line.startswith("measure: ") for line in lines)
    planned = plan("--flops-ratio", 1.5, "--no-time", "--quiet")
    assert planned.code == 0 and planned.err == ""
    first, *rest = planned.out.splitlines()
    assert first == "soda (flops_ratio 1.5)" and "  predicted: 1.50x fewer FLOPs" in rest
    assert any(line.startswith("  computed in full: 4 of 6 steps") for line in rest)
    assert any(line.startswith("  calibrated errors: ") for line in rest), "found where calibrate put it"
    assert any(line.startswith("  expected quality: ") and " dB PSNR to the plain clip" in line for line in rest)
    options = ["--steps", "6", "--frames", "5", "--accel", "soda", "--set", "accel_options.flops_ratio=1.5"]
    made = cli("generate", "--model", pipeline_folder, "a red circle", *options)
    assert made.code == 0 and "  soda: 4 of 6 network calls (4 compute, 2 forecast" in made.out
    record = json.loads(Path("out.json").read_text())["acceleration"]
    assert record["loops"][0]["network_calls"] == 4, "what was planned"


def test_calibrate_goes_on_and_merges(calibrate: Cli, cli: Cli) -> None:
    calibrate("-o", "a.safetensors", "--quiet")
    again = calibrate("-o", "a.safetensors", "--samples", 2, "--replay-samples", 0)
    assert again.code == 0 and "1 sample of 2 measured before" in again.err and "soda.cache (2)" in again.out
    assert calibrate("-o", "b.safetensors", "--first", 2).code == 0
    merged = cli("calibrate", "--merge", "a.safetensors", "b.safetensors", "-o", "c.safetensors")
    assert merged.code == 0 and merged.out.startswith("c.safetensors  3 samples, ")
    assert Prior.load("c.safetensors").samples["soda.cache"] == 3
    twice = cli("calibrate", "--merge", "a.safetensors", "a.safetensors", "b.safetensors", "-o", "d.safetensors")
    assert twice.code == 2 and here() == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_own_prompts(calibrate: Cli) -> None:
    Path("prompts.txt").write_text("# mine\na blue star\n")
    assert calibrate("--prompts", "prompts.txt", "-o", "a.safetensors", "--quiet") == (0, "", "")
    assert Prior.load("a.safetensors").info["samples"] == [[0, "a blue star"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 2], "--steps: 2: input should be greater than or equal to 3"),
        (["--steps", "x"], "--steps: 'x': "),
        (["--memory", "lots"], "a size such as 2GiB or 500MB is wanted, got 'lots'"),
        (["--methods", "fora"], "fora needs no calibration"),
        (["-o", "no/where.safetensors"], "the folder"),
        (["file.safetensors"], "--merge adds up priors"),
        (["--set", "images=a.png"], "--set images: calibrate takes"),
    ],
)
def test_refusals_of_calibrate(calibrate: Cli, options: list[object], message: str) -> None:
    done = calibrate(*options)
    assert done.code == 2 and message in done.err and here() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.safetensors"], "two priors or more to merge, got 1"),
        (["a.safetensors", "b.safetensors"], "there is no prior a.safetensors; videoaccel calibrate makes one"),
        (["a.safetensors", "b.safetensors", "--samples", 3], "--samples changes nothing where priors are merged"),
    ],
)
def test_refusals_of_merge(cli: Cli, options: list[object], message: str) -> None:
    done = cli("calibrate", "--merge", *options, "-o", "c.safetensors")
    assert done.code == 2 and message in done.err and here() == []
    assert "--merge needs a file to write to" in cli("calibrate", "--merge", "a", "b").err


def test_plan_as_data_and_picture(plan: Cli) -> None:
    pytest.importorskip("matplotlib")
    done = plan("--accel", "fora", "--json", "--png", "plan.png", "--no-time")
    data = json.loads(done.out)
    assert data["method"] == "fora" and len(data["steps"]) == 6 and data["speedup"] is None
    assert Image.open("plan.png").size[0] > 300


def test_plan_in_milliseconds(plan: Cli, cli: Cli) -> None:
    done = plan("--accel", "fora")
    assert done.code == 0 and "x faster here (" in done.out and "time" in done.err.splitlines()
    assert "computed in full: 4 of 6 steps" in done.out and "  reuse: steps 3, 5" in done.out
    listed = cli("cache", "list")
    assert "2 measurements of costs" in listed.out and "STDiT3 on " in listed.out and "STDiT3, FLOPs: " in listed.out
    assert json.loads(cli("cache", "list", "--json").out)["costs"]["entries"][0]["key"]["network"] == "STDiT3"
    assert "2 measurements of costs removed" in cli("cache", "clear").out


def test_a_plan_names_the_fields_that_were_changed(plan: Cli) -> None:
    assert plan("--accel", "fora", "--no-time").out.startswith("fora\n")
    changed = ["--set", "accel_options.delta_dit.interval=3", "--set", "accel_options.sada.threshold=0.1"]
    said = plan("--accel", "delta_dit+sada", *changed, "--no-time").out
    assert said.startswith("delta_dit+sada (delta_dit.interval 3, sada.threshold 0.1)\n")


def test_a_threshold_without_effect_is_told(plan: Cli) -> None:
    done = plan("--accel", "sada", "--set", "accel_options.threshold=7", "--no-time")
    assert "warning: a threshold of 7 lets sada skip whatever the error" in done.err


def test_methods_that_look_say_so(plan: Cli) -> None:
    said = plan("--accel", "first_block", "--no-time").out
    assert "decisions depend on the clip, so nothing is foretold" in said and "predicted" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is nothing to plan without a method; name one, such as --accel soda"),
        (["--speedup", 2, "--anchors", 3], "give one target, not --speedup and --anchors"),
        (
            ["--accel", "soda-publishd"],
            "unknown method 'soda-publishd'; did you mean 'soda-published', which is in the box?",
        ),
        (["--accel", "fora", "--anchors", 3], "--anchors is a target of soda; fora takes none"),
        (["--accel", "fora", "--speedup", 2], "--speedup is a target of elastic and soda; fora takes none"),
        (["--flops-ratio", 2], "needs the calibrated table"),
    ],
)
def test_refusals_of_plan(plan: Cli, options: list[object], message: str) -> None:
    done = plan(*options, "--quiet")
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1


def test_a_target_out_of_reach_names_the_largest(calibrate: Cli, plan: Cli) -> None:
    calibrate("--quiet")
    done = plan("--flops-ratio", 50, "--quiet")
    assert done.code == 2 and "50 times fewer FLOPs cannot be reached: the largest possible is 6.00" in done.err


@pytest.mark.slow
def test_a_lora_has_errors_of_its_own(
    calibrate: Cli, plan: Cli, cli: Cli, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """calibrate, plan and compare take one, and with it the model's own prior is not taken."""
    path = saved(Path("style.safetensors").absolute(), VideoPipeline.from_pretrained(pipeline_folder).transformer)
    assert calibrate().code == 0
    asked = ("--accel", "soda", "--flops-ratio", 1.5, "--no-time", "--quiet")
    assert plan(*asked).code == 0
    missing = plan(*asked, "--lora", f"{path}:0.1")
    assert missing.code == 2 and "of the same model" not in missing.out and "calibrate" in missing.err
    Path("prompts.txt").write_text("a red circle\n")
    few = ("--frames", 5, "--steps", 6, "--repeats", 0, "--no-controls", "--no-picture", "--quiet")
    compare = ("compare", "--model", pipeline_folder, "--prompts", "prompts.txt", "--accel", "soda", *few)
    cli(*compare, "-o", "own")
    assert cli(*compare, "-o", "styled", "--lora", path).code == 1
    own, styled = (json.loads(Path(name, "results.json").read_text()) for name in ("own", "styled"))
    assert own["rows"][1]["error"] is None and "prior" in styled["rows"][1]["error"]
    assert own["holds"]["model"] != styled["holds"]["model"]
    assert calibrate("--lora", f"{path}:0.1").code == 0
    assert plan(*asked, "--lora", f"{path}:0.1").code == 0
