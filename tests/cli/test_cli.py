"""The command line as a user meets it: options, outputs, and the other commands."""

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from tests.cli.commands import ROOT, Cli, here, python, sidecar
from videoaccel.cli.progress import Display
from videoaccel.common import files
from videoaccel.common.package import packaged
from videoaccel.common.reading import prompt_lines
from videoaccel.jobs import parts
from videoaccel.media.reader import read_video

PROMPT = "a red circle"


# -- help, version, starting up


def test_help_imports_no_torch() -> None:
    """`videoaccel --help` has to answer at once, and torch alone takes longer than that."""
    code = """
import contextlib, io, sys
from videoaccel.__main__ import main
from videoaccel.cli.app import run
import videoaccel.settings.generate
alone = [[name] for name in ("generate", "calibrate", "plan", "compare", "models", "doctor", "cache")]
for command in ([], *alone, ["cache", "list"], ["cache", "clear"]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert run([*command, "--help"]) == 0
    assert "Usage: videoaccel" in text.getvalue(), command
heavy = {"torch", "diffusers", "transformers", "numpy", "av"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(python("-c", code), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_runs_and_says_its_version() -> None:
    done = subprocess.run(python("-m", "videoaccel", "--version"), cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.startswith(f"videoaccel 0.1.0, torch {torch.__version__} on ")) == (0, True)
    assert 'version = "0.1.0"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("group", [[], ["cache"]])
def test_a_group_alone_shows_its_help(cli: Cli, group: list[str]) -> None:
    done = cli(*group)
    assert done.code == 0 and "Usage: videoaccel" in done.out and done.err == ""


def test_options_of_generate(cli: Cli) -> None:
    shown = cli("generate", "--help").out
    options = """
        model size resolution aspect frames fps steps guidance seed samples image video mask-strategy dtype device
        config set dry-run quiet from prompts negative-prompt compile vae-tiling offload text-cache contact-sheet loops
        extend edit reference attention aes flow camera-motion threads output
    """
    assert [option for option in options.split() if f"--{option}" not in shown] == []
    assert "Usage: videoaccel generate [OPTIONS] [PROMPT]..." in shown


# -- generating


def test_generate(generate: Cli) -> None:
    done = generate(PROMPT)
    assert done.code == 0 and here() == ["out.json", "out.mp4"]
    first, second = done.out.splitlines()
    assert first == "out.mp4  17 frames, 32x32, 8 fps, seed 0"
    assert all(stage in second for stage in ("text ", "load ", "denoise ", "decode ", "write ", "peak memory "))
    lines = done.err.splitlines()
    assert lines[0] == "encode text" and "denoise" in lines and "decode and write" in lines
    assert "denoise: 1 of 3, 0 s left" in lines and not any("\x1b" in line or "\r" in line for line in lines)


def test_quiet_prints_nothing(generate: Cli) -> None:
    assert generate(PROMPT, "--quiet") == (0, "", "")


def test_warnings_are_lines_even_when_quiet(generate: Cli) -> None:
    done = generate("a very long prompt, longer than the forty tokens of the model", "--frames", 1, "--quiet")
    assert done.code == 0 and done.err.startswith("warning: the prompt has ") and len(done.err.splitlines()) == 1


def test_a_terminal_gets_a_bar() -> None:
    shown = io.StringIO()
    with Display(console=Console(file=shown, force_terminal=True, width=100)) as display:
        display("clip", 1, 2)
        display("denoise", 0, 4)
        display("denoise", 3, 4)
        display.note("warning: x")
    text = shown.getvalue()
    assert "clip 2 of 2: denoise" in text and "3/4" in text and "left" in text and "warning: x" in text


def test_options_reach_the_clip(generate: Cli) -> None:
    options = "--size 16x24 --frames 5 --fps 6 --steps 2 --guidance 1 --seed 7 --dtype bfloat16 --device cpu -o c.gif"
    assert generate(PROMPT, *options.split(), "--contact-sheet").code == 0
    assert here() == ["c-sheet.png", "c.gif", "c.json"]
    assert read_video("c.gif")[0].shape == (5, 16, 24, 3)
    settings = sidecar("c.json")["settings"]
    assert (settings["steps"], settings["guidance"], settings["seed"], settings["dtype"]) == (2, 1, 7, "bfloat16")


def test_one_frame_is_a_png(generate: Cli) -> None:
    assert generate(PROMPT, "--frames", 1).code == 0
    assert here() == ["out.json", "out.png"] and Image.open("out.png").size == (32, 32)


def test_samples_and_prompts_from_everywhere(generate: Cli) -> None:
    Path("prompts.txt").write_text("# a comment\na blue star\n\n  a green square  \n")
    done = generate("-", PROMPT, "--prompts", "prompts.txt", "--steps", 1, "--frames", 1, stdin="from a pipe\n#no\n")
    assert done.code == 0
    assert [sidecar(f"out-{k}.json")["prompt"] for k in range(4)] == [
        "from a pipe", PROMPT, "a blue star", "a green square",
    ]  # fmt: skip
    assert "clip 1 of 4: denoise" in done.err and "clip 4 of 4: denoise" in done.err
    generate("--prompts", "-", "--samples", 2, "--seed", 3, "--frames", 1, "-o", "p.png", stdin="x y")
    assert [sidecar(f"p-{k}.json")["seed"] for k in range(2)] == [3, 4]


def test_prompts_files_without_prompts() -> None:
    with pytest.raises(ValueError, match=r"empty\.txt holds no prompt; one a line"):
        prompt_lines("# only this\n\n", source="empty.txt")


def test_given_images_and_clips(generate: Cli) -> None:
    """What each does to the clip is tested with the job; here, that the options get there."""
    Image.new("RGB", (50, 40), (200, 30, 30)).save("a.png")
    asked = {
        "i": ["--image", "a.png", "--image", "a.png"],
        "f": ["--video", "i.mp4", "--extend", "backward"],
        "e": ["--video", "i.mp4", "--edit", 0.5, "--steps", 9],
        "m": ["--reference", "a.png", "--mask-strategy", "0,0,0,-1,1", "--loops", 2],
    }
    for name, options in asked.items():
        assert generate(PROMPT, "-o", f"{name}.mp4", "--steps", 1, *options).code == 0
    assert len(read_video("m.mp4")[0]) == 33
    settings = {name: sidecar(f"{name}.json")["settings"] for name in asked}
    assert len(settings["i"]["images"]) == 2 and settings["f"]["extend"] == "backward"
    assert settings["e"]["edit"] == 0.5 and settings["m"]["mask_strategy"] == "0,0,0,-1,1"


def test_config_options_and_set_in_this_order(generate: Cli) -> None:
    Path("job.yaml").write_text("prompt: a blue star\nsteps: 9\nframes: 5\nseed: 1\nresolution: 240p\n")
    done = generate("--config", "job.yaml", "--size", "32x32", "--frames", 7, "--steps", 8, "--set", "steps=2")
    assert done.code == 0
    settings = sidecar()["settings"]
    found = [settings[name] for name in ("prompt", "steps", "frames", "seed", "size")]
    assert found == [["a blue star"], 2, 7, 1, "32x32"]


def test_dry_run_touches_nothing(generate: Cli, monkeypatch: pytest.MonkeyPatch, pipeline_folder: Path) -> None:
    monkeypatch.setattr(parts, "load_text_encoder", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(files, "open", lambda *_: pytest.fail("written"), raising=False)
    done = generate(PROMPT, "--samples", 2, "--contact-sheet", "--dry-run")
    assert done.code == 0 and here() == []
    settings = yaml.safe_load(done.out)
    assert settings["frames"] == 17 and settings["device"] in ("cpu", "cuda")
    assert done.out.splitlines()[-4:] == [
        f"# would load: {pipeline_folder}",
        "# would write:",
        f"#   out-0.mp4 out-0.json out-0-sheet.png  (seed 0: '{PROMPT}')",
        f"#   out-1.mp4 out-1.json out-1-sheet.png  (seed 1: '{PROMPT}')",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--samples", 2, "--negative-prompt", "blue: yes", "--aes", "none"],
        ["--image", "a.png", "--loops", 2, "--condition-edit", 0.9, "--seeds", "7"],
        ["--reference", "a.png", "--mask-strategy", "0;0,0,0,-1,1,0.9", "--set", "scheduler.base_size=40"],
    ],
)
def test_a_dry_run_is_a_configuration(generate: Cli, cli: Cli, options: list[object]) -> None:
    Image.new("RGB", (9, 9)).save("a.png")
    done = generate("two\nlines", *options, "--dry-run")
    assert done.code == 0
    Path("plan.yaml").write_text(done.out)
    again = cli("generate", "--config", "plan.yaml", "--dry-run")
    assert again.code == 0 and again.out == done.out


def test_from_makes_the_same_bytes(generate: Cli, cli: Cli) -> None:
    Path("deep").mkdir()
    assert generate(PROMPT, "--seed", 3, "-o", "deep/out.mp4").code == 0
    done = cli("generate", "--from", "deep/out.json")
    assert done.code == 0 and "the same bytes as the clip of deep/out.json" in done.out
    original = Path("deep/out.mp4").read_bytes()
    assert Path("deep/out-again.mp4").read_bytes() == original
    changed = ("generate", "--from", "deep/out.json", "--seed", 4, "--steps", 2, "-o", "other.mp4")
    told = "this will be another clip than that of deep/out.json: other --steps, --seed"
    assert f"# {told}" in cli(*changed, "--dry-run").out.splitlines()
    done = cli(*changed)
    assert done.code == 0 and done.err.splitlines()[0] == told
    assert "same bytes" not in done.out and Path("other.mp4").read_bytes() != original
    assert cli(*changed, "--quiet") == (0, "", "")
    done = cli("generate", "--from", "deep/out.json", "-o", "other.gif")
    assert done.code == 0 and "in another format, so its bytes are not compared with the clip of" in done.out
    record = sidecar("deep/out.json")
    record["model"]["files"]["vae/config.json"] = "0"
    record["versions"]["torch"] = "2.0"
    Path("changed.json").write_text(json.dumps(record))
    done = cli("generate", "--from", "changed.json")
    assert done.code == 2 and "changed.json was made with other model files: vae/config.json has changed;" in done.err
    record["model"] = sidecar("deep/out.json")["model"]
    Path("changed.json").write_text(json.dumps(record))
    done = cli("generate", "--from", "changed.json", "--quiet")
    assert done.code == 0 and "warning: the clip may differ from that of changed.json: torch was 2.0" in done.err


# -- the other commands


def test_models(cli: Cli, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("models")
    assert done.code == 0 and "demo" in done.out and "240x426, 51 frames, 24 fps, 30 steps, guidance 7" in done.out
    found = {model["name"]: model for model in json.loads(cli("models", "--json").out)}
    assert set(found) >= {"demo", "opensora-v1.2"}
    assert found["demo"]["here"] == packaged("assets", "demo", "model_index.json").is_file()
    assert found["opensora-v1.2"]["defaults"]["num_frames"] == 51
    assert all(len(set(model["missing"])) == len(model["missing"]) for model in found.values()), "each once"


def test_doctor(cli: Cli) -> None:
    done = cli("doctor", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["torch"]["version"] == torch.__version__
    assert found["devices"][0]["device"] == "cpu" and found["devices"][0]["bytes"] > 1e8
    assert found["attention"]["native"] == "works"
    assert {"cudnn", "xformers", "flash", "flash-hub", "sage"} <= set(found["attention"])
    if not torch.cuda.is_available():
        assert "not installed" in found["attention"]["flash"] or "CUDA" in found["attention"]["flash"]
    assert found["codecs"] == {"libx264": "writes mp4", "gif": "writes gif"}
    if not torch.cuda.is_available():
        assert set(found["gpu"].values()) == {"they need a CUDA device"}
    text = cli("doctor")
    assert text.code == 0 and torch.__version__ in text.out and "libx264" in text.out and "text cache" in text.out
    for name in found["models"]:  # the longest of them, too, stands apart from what is said of it
        assert f"  {name}  " in text.out, name


def test_cache(generate: Cli, cli: Cli) -> None:
    assert "0 prompts" in cli("cache", "list").out
    assert generate(PROMPT, "--text-cache", "--frames", 1).code == 0
    assert PROMPT in cli("cache", "list").out
    entries = json.loads(cli("cache", "list", "--json").out)["entries"]
    assert [entry["prompt"] for entry in entries] == [PROMPT]
    assert "1 prompt, " in cli("cache", "list").out and "text cache: 1 prompt, " in cli("doctor").out
    assert cli("cache", "clear").out.startswith("1 prompt removed")
    assert "0 prompts" in cli("cache", "list").out


@pytest.mark.skipif(not packaged("assets", "demo", "model_index.json").is_file(), reason="the demo model is not here")
def test_demo_model_if_it_is_here(cli: Cli) -> None:
    done = cli("generate", "a red circle moves left on a black background", "--steps", 2)
    assert done.code == 0 and np.std(read_video("out.mp4")[0]) > 1


def test_methods_are_listed_with_their_fields(cli: Cli) -> None:
    listed = cli("methods")
    assert listed.code == 0
    for name in ("soda", "teacache", "fixed_linear", "off"):
        assert name in listed.out
    assert "In the box, with fields set, for --accel: delta-dit-lcm, " in listed.out
    one = cli("methods", "fora")
    assert one.code == 0 and "period" in one.out and "2, 3, 4, 5, 6, 8" in one.out
    told = cli("methods", "soda").out
    assert "network, modules, sites" in told and "Literal" not in told and "None" not in told
    wrong = cli("methods", "forra")
    assert wrong.code == 2 and "did you mean 'fora'" in wrong.err


def test_a_folder_for_vbench(generate: Cli) -> None:
    rows = [
        {"prompt_en": "a red circle.", "dimension": ["color"], "auxiliary_info": {"color": "red"}},
        {"prompt_en": "a ç", "dimension": ["scene"]},
    ]
    Path("info.json").write_text(json.dumps(rows), encoding="utf-8")
    options = ("--vbench", "info.json", "--samples", 2, "--frames", 1, "--steps", 2, "--seed", 3)
    done = generate(*options, "-o", "suite")
    assert done.code == 0, done.err
    names = ["a red circle.-0", "a red circle.-1", "a ç-0", "a ç-1"]
    assert sorted(path.name for path in Path("suite").iterdir()) == sorted(f"{name}.mp4" for name in names)
    beside = {path.stem: json.loads(path.read_text()) for path in Path("suite-sidecars").iterdir()}
    assert {name: beside[name]["seed"] for name in names} == dict(zip(names, (3, 4, 3, 4), strict=True))
    assert beside["a ç-1"]["settings"]["prompt"] == ["a ç"] and beside["a ç-1"]["settings"]["vbench"] is None
    Path("suite/notes.txt").write_text("x")
    assert "suite holds 'notes.txt'" in generate(*options, "-o", "suite").err
    both = generate("a", "--vbench", "info.json")
    assert both.code == 2 and "give --vbench or prompts, not both" in both.err
    wrong = generate("--vbench", "info.json", "--frames", 1, "--steps", 2, "-o", "x.mp4")
    assert wrong.code == 2 and "--output must name one, got 'x.mp4'" in wrong.err
