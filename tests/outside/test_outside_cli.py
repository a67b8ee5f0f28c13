"""Command lines on pipelines of diffusers."""

import json
import re
from pathlib import Path

import yaml

from tests.cli.commands import Cli, here, sidecar
from videoaccel.adapters.tested import TESTED

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_generate_and_make_again(cli: Cli, wan_folder: Path) -> None:
    small = ("--model", wan_folder, "--size", "32x32", "--frames", 5, "--steps", 8)
    done = cli("generate", "a cat", *small, "--accel", "fora", "--arg", "max_sequence_length=16", "-o", "a.mp4")
    assert done.code == 0, done.err
    assert "a.mp4  5 frames, 32x32, 16 fps, seed 0" in done.out
    assert "fora: 10 of 16 network calls, in 5 of 8 evaluations, stored " in done.out
    assert ", residual: body" in done.out
    assert sidecar("a.json")["settings"]["args"] == {"max_sequence_length": 16}
    same = cli("generate", "--from", "a.json")
    assert same.code == 0 and "the same bytes as the clip of a.json" in same.out
    other = cli("generate", "--from", "a.json", "--arg", "guidance_scale=2", "-o", "b.mp4")
    assert "other --arg" in other.err and "NOT the same bytes" not in other.err
    assert sidecar("b.json")["settings"]["args"] == {"max_sequence_length": 16, "guidance_scale": 2}
    assert "a.wav" not in here()


def test_a_dry_run_goes_back_into_a_file(cli: Cli, dit_folder: Path) -> None:
    asked = cli("generate", "--model", dit_folder, "goldfish", "--steps", 4, "-o", "x.png", "--dry-run")
    assert asked.code == 0 and here() == []
    assert "# would call it with: class_labels, num_inference_steps, generator" in asked.out
    assert yaml.safe_load(asked.out)["model"] == str(dit_folder)
    Path("run.yaml").write_text(asked.out)
    assert cli("generate", "--config", "run.yaml", "--quiet").code == 0 and "x.png" in here()


def test_mistakes_are_one_sentence(cli: Cli, dit_folder: Path, wan_folder: Path) -> None:
    for arguments, message in (
        (("--model", dit_folder, "1", "--arg", "guidence_scale=3"), "did you mean guidance_scale?"),
        (("--model", dit_folder, "1", "--arg", "guidance_scale"), "--arg takes name=value, got 'guidance_scale'"),
        (("--model", dit_folder, "1", "--frames", 3), "--frames has no place here: DiTPipeline takes no argument"),
        (("--model", dit_folder, "1", "--dp", 2), "--dp: that is for this project's own models"),
        (
            ("--model", dit_folder, "1", "--gpus", 2),
            "--sp and --gpus have no place here: the transformer of a DiTPipeline",
        ),
        (("--model", wan_folder, "a", "--guidance", 1, "--negative-prompt", "b"), "raise it, such as --guidance 4"),
        (
            ("--model", dit_folder, "1", "--accel", "fora", "--measure-first", 2),
            "--measure-first changes nothing: fora measures nothing first",
        ),
        (
            ("--model", dit_folder, "1", "--min-worst-psnr", 30),
            "a quality is kept by a curve that watching generations",
        ),
        (
            ("--model", dit_folder, "1", "--speedup", "2", "--set", "accel_options.keep_base=true"),
            "true is for switches",
        ),
        (("a", "--arg", "x=1"), "--arg is for pipelines of diffusers, and demo is one of our own models"),
        (("--model", dit_folder, "1", "--offload", "--group-offload"), "give --offload or --group-offload, not both"),
    ):
        done = cli("generate", *arguments)
        assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err
    assert here() == []
    done = cli("verify", "--model", dit_folder, "--ranks", "1,2")
    assert done.code == 2 and "its class has no plan of what to split; on 1 rank alone verify compares" in done.err


def test_calibrate_plan_generate(cli: Cli, dit_folder: Path) -> None:
    model = ("--model", dit_folder, "--steps", 12)
    missing = cli("plan", *model, "--speedup", 2, "--quiet")
    assert missing.code == 2 and "there is no prior of this pipeline for this call; videoaccel calibrate" in missing.err
    done = cli("calibrate", *model, "--samples", 2, "--curve", 1, "-o", "dit.safetensors")
    assert done.code == 0 and "dit.safetensors  2 samples" in done.out, done.err
    asked = ("--speedup", 2, "--prior", "dit.safetensors")
    plan = cli("plan", *model, *asked)
    assert plan.code == 0 and "soda (speedup 2) on DiTPipeline" in plan.out and "(2 generations)" in plan.out
    assert re.search(
        r"expected quality: [\d.]+ dB PSNR to the plain clip, calibration clips' mean, [\d.]+ the worst", plan.out
    )
    data = json.loads(cli("plan", *model, *asked, "--json", "--quiet").out)
    assert data["speedup"] == 2 and len(data["computed"]) == 6 and 0 < data["share"] < 1
    assert all((one["order"] is None) == (one["error"] is None) for one in data["evaluations"])
    assert cli("generate", *model, "3", *asked, "-o", "a.png", "--quiet").code == 0
    assert sidecar("a.json")["network"]["evaluations_computed"] == data["computed"], "what was foretold is done"
    assert len(json.loads(cli("plan", *model[:3], 20, *asked, "--json", "--quiet").out)["computed"]) == 10
    whole = cli("plan", *model, *asked, "--speedup", 1.1, "--speedup-of", "all")
    assert whole.code == 0 and "of a whole call" in whole.out


def test_methods_that_watch_blocks(cli: Cli, wan_folder: Path) -> None:
    small = ("--model", wan_folder, "--size", "32x32", "--frames", 1, "--steps", 8, "-q")
    done = cli(
        "generate", "a cat", *small, "--accel", "first_block", "--set", "accel_options.threshold=0.5", "-o", "a.mp4"
    )
    assert done.code == 0, done.err
    assert 0 < len(sidecar("a.json")["network"]["evaluations_computed"]) < 8
    done = cli("generate", "a cat", *small, "--accel", "teacache", "--measure-first", 1, "--samples", 2, "-o", "b.mp4")
    assert done.code == 0 and "the next 1 generation are computed whole" in done.err, done.err
    assert "decides while it runs" in cli("plan", *small, "--accel", "teacache").out
    assert cli("plan", *small, "--accel", "uncalibrated").out.startswith("uncalibrated (fixed_linear) (start 0.2")


def test_plans_that_need_nothing_measured(cli: Cli, dit_folder: Path) -> None:
    model = ("--model", dit_folder, "--steps", 12, "--quiet")
    assert "computed: 7 of 12: 0-2, 4, 6, 8, 10" in cli("plan", *model, "--accel", "fora").out
    assert "decides while it runs" in cli("plan", *model, "--accel", "sada").out
    assert "6 steps of 12" in cli("plan", *model, "--accel", "fewer_steps").out
    few = cli("plan", "--model", dit_folder, "--steps", 4, "--accel", "fora", "-q")
    assert few.code == 2 and "forecasts need 8" in few.err


def test_what_belongs_to_the_other_kind_of_model(cli: Cli, dit_folder: Path) -> None:
    for arguments, message in (
        (
            ("plan", "--accel", "fora", "--variant", "fp16"),
            "--variant changes nothing where plan looks at one of our own",
        ),
        (("plan", "--model", dit_folder, "--accel", "fora", "--no-time"), "--no-time is for plans of our own models"),
        (("calibrate", "--curve", "2"), "--curve is for pipelines of diffusers"),
        (("calibrate", "--model", dit_folder, "--memory", "2GiB"), "--memory is for calibrating our own models"),
        (("calibrate", "--model", dit_folder, "--fit-search", 1), "--fit-search is for calibrating our own models"),
        (("calibrate", "--model", dit_folder, "--samples", 0), "at least one sample has to be measured"),
        (
            ("calibrate", "--model", dit_folder, "--samples", 4, "--fit-samples", 3),
            "steps cannot be fitted on 3 calls: of 4 the first 2 say what is kept, so 2 are left; measure more",
        ),
        (("doctor", "--size", "8x8"), "--size is for the test of a pipeline, which --model names"),
    ):
        done = cli(*arguments)
        assert done.code == 2 and message in done.err, done.err


def test_doctor_tests_a_pipeline(cli: Cli, dit_folder: Path) -> None:
    done = cli("doctor", "--model", dit_folder)
    assert done.code == 0, done.err
    assert "everything computed, watched: the bits of a plain run, the same random numbers" in done.out
    assert "can be had: fewer_steps, first_block, fixed_linear, off, sada, uncalibrated (fixed_linear)" in done.out
    assert "can be had; residual: body: fora, taylorseer" in done.out
    data = json.loads(cli("doctor", "--model", dit_folder, "--json", "--quiet", "--steps", 8).out)
    assert data["exact"] and data["report"]["evaluations"] == 8 and data["arguments"] == {"num_inference_steps": 8}


def test_models_names_what_was_tried(cli: Cli) -> None:
    rows = [line.split("|") for line in (DOCS / "diffusers.md").read_text().split("<!-- matrix")[1].splitlines()]
    table = {(row[1].strip(), row[2].strip()) for row in rows[3:] if len(row) > 2}
    assert table == {(name, kind) for name, kinds in TESTED.items() for kind in kinds}, "the page's table has changed"
    assert f"{len(TESTED)} classes were tried: " in cli("models").out
    assert "  WanPipeline: UniPCMultistep, " in cli("models", "--diffusers").out
