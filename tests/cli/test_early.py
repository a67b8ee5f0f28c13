"""A slip is told before anything large is imported: torch, diffusers and PyAV are not there yet when it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import ROOT
from videoaccel.cli.app import run

_CODE = """
import json, sys
from videoaccel.cli.app import run

found = []
for line in json.loads(sys.argv[1]):
    code = run(line)
    print("---", file=sys.stderr, flush=True)
    found.append([code, [name for name in ("torch", "diffusers", "transformers", "av") if name in sys.modules]])
print(json.dumps(found))
"""

GENERATE = {
    ("--frames", "three"): "frames must be a positive whole number",
    ("--model", "demoo"): "no model or folder is called 'demoo'",
    ("-o", "out.xyz"): "cannot write 'out.xyz': its name must end in .mp4, .gif, .png",
    ("-o", "no/such/out.mp4"): "the folder",
    ("--image", "none.png"): "none.png does not exist",
    ("--video", "none.mp4"): "none.mp4 does not exist",
    ("--lora", "none.safetensors:0.5"): "none.safetensors does not exist",
    ("--accel", "sodaa"): "unknown method 'sodaa'; did you mean 'soda'?",
    ("--accel", "soda+nope"): "unknown method 'nope'",
    ("--accel", "none.yaml"): "configuration file none.yaml does not exist",
    ("--attention", "nope"): "unknown attention backend 'nope'",
    ("--mask-strategy", "0,0,0,0,0", "--reference", "none.png"): "length must be at least 1",
    ("--mask-strategy", "0,0,0,7", "--reference", "a.png"): "target_start must lie in -5..4, the latent frames there",
    ("--mask-strategy", "0,0,0,-6", "--reference", "a.png"): "target_start must lie in -5..4",
    ("--mask-strategy", "0,0,0,1", "--reference", "a.png", "--frames", "1", "-o", "a.png"): "must lie in -1..0",
    ("--mask-strategy", "0,0,1", "--reference", "a.png"): "reference_start in a.png must lie in -1..0",
    ("--mask-strategy", "0;2", "--reference", "a.png"): "group 1 (2) of the mask strategy is for loop 2",
    ("--mask-strategy", "0,3", "--reference", "a.png"): "there is no reference 3; loop 0 has 1",
    ("--mask-strategy", "0", "--reference", "a.png", "--reference", "p.txt"): "does not use reference 1 (p.txt)",
    ("--loops", "2", "--condition-latents", "6"): "frames must be above the 18 frames that a clip takes over",
    ("--size", "1x64"): "height must be at least 4 pixels, got 1",
    ("--resolution", "999p"): "no resolution '999p'; there are 144p",
    ("--speedup", "2", "--prior", "none.safetensors"): "there is no prior",
    ("--config", "none.yaml"): "none.yaml does not exist",
    ("--from", "none.json"): "--from takes the .json that was written beside a clip",
}
MISTAKES = {
    ("generate",): "there is no prompt",
    **{("generate", "a red circle", *given): said for given, said in GENERATE.items()},
    ("render", "none.jsonl", "-o", "out"): "none.jsonl does not exist",
    ("render", "field.jsonl", "-o", "out"): "1 problem in field.jsonl",
    ("render", "model.jsonl", "-o", "out"): "line 1: no model or folder is called 'demoo'",
    ("render", "method.jsonl", "-o", "out"): "line 2: unknown method 'sodaa'",
    ("render", "good.jsonl", "-o", "no/such/out"): "the folder",
    ("compare", "--prompts", "none.txt", "-o", "out"): "none.txt does not exist",
    ("compare", "--prompts", "p.txt", "-o", "out", "--accel", "sodaa"): "unknown method 'sodaa'",
    ("compare", "--prompts", "p.txt", "-o", "out", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("compare", "--prompts", "p.txt", "-o", "no/such/out"): "the folder",
    ("compare", "--prompts", "p.txt", "-o", "out", "--prior", "none.safetensors"): "there is no prior",
    ("compare", "--prompts", "p.txt", "-o", "out", "--size", "64x1"): "width must be at least 4 pixels, got 1",
    ("calibrate", "--size", "1x1"): "height must be at least 4 pixels, got 1",
    ("plan",): "there is nothing to plan without a method; name one, such as --accel soda",
    ("plan", "--accel", "sodaa"): "unknown method 'sodaa'",
    ("plan", "--accel", "soda", "--png", "no/such/plan.png"): "the folder",
    ("calibrate", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("calibrate", "--methods", "nope"): "unknown method 'nope'",
    ("calibrate", "-o", "no/such/prior.safetensors"): "the folder",
    ("evaluate", "none", "-o", "out"): "none does not exist",
    ("evaluate", ".", "-o", "out", "--reader", "eyes"): "no reader is called 'eyes'; there are pyav, decord",
    ("evaluate", ".", "-o", "out", "--ground", "clear"): "a colour such as white or #808080 is wanted",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, list[str], str]]:
    """Exit code, what was imported, and what was said, of all of them in one fresh process."""
    folder: Path = tmp_path_factory.mktemp("mistakes")
    (folder / "p.txt").write_text("a red circle\n")
    (folder / "a.png").touch()
    for name, lines in {
        "good": [{}],
        "field": [{"framez": 3}],
        "model": [{"model": "demoo"}],
        "method": [{}, {"accel": "sodaa"}],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": "x", **line}) + "\n" for line in lines))
    command = [sys.executable, "-c", _CODE, json.dumps([list(line) for line in MISTAKES])]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    facts, said = json.loads(done.stdout.splitlines()[-1]), done.stderr.split("---\n")
    return {line: (code, large, text) for line, (code, large), text in zip(MISTAKES, facts, said, strict=False)}


@pytest.mark.parametrize("line", MISTAKES, ids=" ".join)
def test_a_slip_is_told_before_torch_is_imported(
    told: dict[tuple[str, ...], tuple[int, list[str], str]], line: tuple[str, ...]
) -> None:
    code, large, said = told[line]
    assert code == 2 and MISTAKES[line] in said and large == []


WITHOUT = {
    ("generate", "a red circle", "--accel", "fora", "--explain"): ("--explain", "matplotlib", "report"),
    ("plan", "--accel", "fora", "--png", "plan.png"): ("--png", "matplotlib", "report"),
    ("compare", "--prompts", "p.txt", "-o", "out"): ("measuring quality", "torchmetrics", "eval"),
    ("evaluate", ".", "-o", "out"): ("evaluating", "torchmetrics", "eval"),
    ("evaluate", ".", "-o", "out", "--reader", "decord"): ("--reader decord", "decord", "decord"),
    ("calibrate", "--fit-samples", "8"): ("--fit-samples", "torchmetrics", "eval"),
    ("calibrate", "--backbones", "."): ("--backbones", "torchmetrics", "eval"),
    ("render", "p.txt", "-o", "out", "--engine", "ray"): ("--engine ray", "ray", "ray"),
}


@pytest.mark.parametrize("line", WITHOUT, ids=" ".join)
def test_a_missing_extra_is_told_before_anything_is_loaded(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    what, package, extra = WITHOUT[line]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red circle\n")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("videoaccel.cli.progress.Display.__enter__", lambda self: pytest.fail("work began"))
    assert run(line) == 2
    assert (
        capfd.readouterr().err == f"videoaccel: {what} needs {package}; pip install 'videoaccel[{extra}]' brings it\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_a_size_below_a_latent_place_is_told_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("videoaccel.jobs.generate.encode_texts", lambda order: pytest.fail("work began"))
    assert run(["generate", "a red circle", "--size", "1x64", "-q"]) == 2
    assert capfd.readouterr().err == "videoaccel: height must be at least 4 pixels, got 1\n"


def test_more_ranks_than_a_cpu_can_serve_are_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("videoaccel.parallel.launch.start_ranks", lambda *_, **__: pytest.fail("ranks were started"))
    assert run(["generate", "a red circle", "--gpus", "99", "--device", "cpu", "-q"]) == 2
    assert "99 ranks were asked for, and this CPU has 2 cores; at most 8 run here" in capfd.readouterr().err


def test_kernels_that_are_known_without_torch_are_those_there_are() -> None:
    from videoaccel.generation.attention_kernels import DISPATCHED, NATIVE
    from videoaccel.settings import early

    assert (NATIVE, *DISPATCHED) == early.BACKENDS
