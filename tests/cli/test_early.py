"""A slip is told before anything large is imported: torch, diffusers and PyAV are not there yet when it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import ROOT
from videoaccel.cli.app import run
from videoaccel.settings.tensor_heads import PRIOR, ROUTERS

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
    ("--speedup", "2", "--prior", "p.txt"): "p.txt is no prior: not a safetensors file, or damaged",
    ("--speedup", "2", "--prior", "routers.safetensors"): "is no prior of this version (format videoaccel-prior-1)",
    ("--speedup", "2", "--prior", "prior.safetensors", "--steps", "9"): "was made for steps 30, here 9; calibrate for",
    ("--speedup", "2", "--prior", "prior.safetensors", "--size", "64x96"): "size [64, 64], here [64, 96]",
    ("--lora", "p.txt"): "p.txt holds no weights; a LoRA is a .safetensors file, or one that torch has written",
    ("--lora", "cut.safetensors"): "cut.safetensors is not a safetensors file, or is cut short",
    ("--accel", "fora", "--set", "accel_options.perod=2"): "fora has no field 'perod'; it has period, warmup,",
    ("--accel", "fora", "--set", "accel_options.period=0"): "fora: period: Input should be greater than or equal to 1",
    ("--accel", "fora+sada", "--set", "accel_options.fora.perod=2"): "fora has no field 'perod'; it has period,",
    ("--accel", "fora+sada", "--set", "accel_options.sada.max_run=0"): "sada: max_run: Input should be greater",
    ("--accel", "fora+sada", "--set", "accel_options.period=2"): "say whose, such as fora.period",
    ("--accel", "fora+sada", "--set", "accel_options.pab.spatial=2"): "fora+sada has no method 'pab'; give fields as",
    ("--accel", "fora+fora"): "a chain is two different methods, such as soda+sada, got 'fora+fora'",
    ("--accel", "fora+sada", "--speedup", "2"): "--speedup cannot be kept by fora+sada: what the two save together",
    ("--accel", "fora-sada", "--set", "accel_options.sada.treshold=1"): "sada has no field 'treshold'; it has",
    ("--accel", "mine.yaml"): "mine.yaml: fora has no field 'perod'; it has period,",
    ("--accel", "both.yaml"): "both.yaml: sada has no field 'treshold'; it has",
    ("--accel", "nameless.yaml"): "nameless.yaml must say its method, one of adacache",
    (
        "--accel",
        "lemica",
        "--speedup",
        "2",
    ): "a target of elastic and soda; lemica takes none: set its budget",
    ("--accel", "fora", "--set", "accel_options.min_psnr=30"): "is a target of soda; fora takes none: set its period",
    ("--accel", "off", "--anchors", "3"): "--anchors is a target of soda; off takes none: it has no knob",
    ("--seeds", "1", "--seeds", "2,3"): "3 seeds for 1 clip; give one for each",
    ("-o", "folder.mp4"): "cannot write folder.mp4: a folder has that name; for frames in a folder, end it in '/'",
    ("-o", f"{'x' * 300}.mp4"): "the name is too long for this disk; choose a shorter one",
    ("--config", "none.yaml"): "none.yaml does not exist",
    ("--from", "none.json"): "--from takes the .json that was written beside a clip",
}
MISTAKES = {
    ("generate",): "there is no prompt; give PROMPT, such as 'a red circle moves left'",
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
    ("compare", "--prompts", "p.txt", "-o", "p.txt"): "cannot write a comparison to p.txt: it is not a folder",
    ("compare", "--prompts", "p.txt", "-o", "full"): "full holds 'x' but no rows.jsonl",
    ("compare", "--prompts", "p.txt", "-o", "compared"): "results.json: it is a folder; name a file in it",
    ("compare", "--prompts", "p.txt", "-o", "worst"): "is no folder; pictures of the worst clips belong there",
    ("compare", "--prompts", "p.txt", "-o", "out", "--setting", "fora.perod=2"): "fora has no field 'perod'; it has",
    ("compare", "--prompts", "p.txt", "-o", "out", "--setting", "fora.period=2,0"): "greater than or equal to 1, got 0",
    ("compare", "--prompts", "p.txt", "-o", "out", "--setting", "fora.period"): "a setting is method.field=value",
    ("compare", "--prompts", "p.txt", "-o", "out", "--setting", "for.period=2"): "values are given for for, which is",
    (
        "compare",
        "--prompts",
        "p.txt",
        "-o",
        "out",
        "--setting",
        "fora.period=2,3",
        "--setting",
        "fora.warmup=1,2",
    ): "fora: one field may have several values, not period and warmup",
    (
        "compare",
        "--prompts",
        "p.txt",
        "-o",
        "out",
        "--accel",
        "fora-sada",
        "--setting",
        "fora-sada.fora=1,2",
    ): "fora-sada, in the box, is run once: fora takes one value, not 2",
    ("compare", "--prompts", "p.txt", "-o", "out", "--accel", "mine.yaml"): "mine.yaml: fora has no field 'perod'",
    ("compare", "--prompts", "p.txt", "-o", "out", "--accel", "sodaa", "--accel", "fora"): "unknown method 'sodaa'",
    ("compare", "--prompts", "p.txt", "-o", "out", "--seeds", "x", "--seeds", "1"): "commas between, got 'x,1'",
    ("compare", "--prompts", "p.txt", "-o", "out", "--speedup", "0.5", "--speedup", "2"): "at least 1, got 0.5",
    ("verify", "--accel", "sodaa", "--accel", "exact"): "unknown method 'sodaa'",
    ("verify", "--ranks", "0", "--ranks", "2"): "with commas between, such as 1,2,4; got '0,2'",
    ("calibrate", "--methods", "nope", "--methods", "soda"): "unknown method 'nope'",
    ("compare", "--prompts", "p.txt", "-o", "out", "--seeds", ""): "there is no seed; give at least one",
    ("compare", "--prompts", "p.txt", "-o", "out", "--speedup", "0.5"): "a speed-up must be a number of at least 1",
    ("compare", "--prompts", "p.txt", "-o", "out", "--clips", "0"): "at least 1 clip is timed, 0 times or more",
    (
        "compare",
        "--prompts",
        "p.txt",
        "-o",
        "out",
        "--prior",
        "prior.safetensors",
        "--frames",
        "1",
    ): "frames 17, here 1",
    ("calibrate", "--size", "1x1"): "height must be at least 4 pixels, got 1",
    ("plan",): "there is nothing to plan without a method; name one, such as --accel soda",
    ("plan", "--accel", "sodaa"): "unknown method 'sodaa'",
    ("plan", "--accel", "soda", "--png", "no/such/plan.png"): "the folder",
    ("plan", "--accel", "soda", "--png", "plan.svg"): "--png draws a png; its name must end in .png, got 'plan.svg'",
    ("plan", "--gpus", "2", "--png", "plan.png"): "--png draws what a method does; name one, such as --accel soda",
    ("plan", "--accel", "soda", "--link", "2"): "--link is for --gpus: how fast ranks exchange",
    ("plan", "--gpus", "2", "--link", "0"): "--link takes GB/s above 0, got 0",
    ("doctor", "--model", "demo"): "demo is one of our own models, and this test is for pipelines of diffusers",
    ("doctor", "--model", "ours"): "videoaccel verify tests it; --pipeline-class PixArtSigmaPipeline tests it as",
    ("doctor", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("status", "none"): "none holds no render",
    ("cancel", "none"): "none holds no render",
    ("verify", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("verify", "--accel", "sodaa"): "unknown method 'sodaa'",
    ("verify", "--size", "1x1"): "height must be at least 4 pixels, got 1",
    ("verify", "--accel", "soda", "--prior", "prior.safetensors"): "was made for",
    ("train-router", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("train-router", "--size", "1x1"): "height must be at least 4 pixels, got 1",
    ("train-router", "-o", "full"): "cannot write full: it is a folder; name a file in it",
    ("train-router", "-o", "p.txt"): "p.txt is no file of routers: not a safetensors file, or damaged; choose another",
    ("train-router", "-o", "prior.safetensors"): "is no file of routers of this version",
    ("train-router", "-o", "begun.safetensors"): "cannot write begun.part: it is a folder",
    ("calibrate", "-o", "p.txt"): "p.txt is no prior: not a safetensors file, or damaged",
    ("calibrate", "--model", "demoo"): "no model or folder is called 'demoo'",
    ("calibrate", "--methods", "nope"): "unknown method 'nope'",
    ("calibrate", "-o", "no/such/prior.safetensors"): "the folder",
    ("evaluate", "none", "-o", "out"): "none does not exist",
    ("evaluate", ".", "-o", "out", "--reader", "eyes"): "no reader is called 'eyes'; there are pyav, decord",
    ("evaluate", ".", "-o", "p.txt"): "cannot write an evaluation to p.txt: it is not a folder",
    ("evaluate", ".", "-o", "compared"): "results.json: it is a folder; name a file in it",
    ("evaluate", ".", "-o", "out", "--ground", "clear"): "a colour such as white or #808080 is wanted",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, list[str], str]]:
    """Exit code, what was imported, and what was said, of all of them in one fresh process."""
    folder: Path = tmp_path_factory.mktemp("mistakes")
    (folder / "p.txt").write_text("a red circle\n")
    (folder / "a.png").touch()
    (folder / "mine.yaml").write_text("method: fora\nperod: 2\n")
    (folder / "both.yaml").write_text("method: fora+sada\nfora: {period: 3}\nsada: {treshold: 1}\n")
    (folder / "ours").mkdir()
    index = {"_class_name": "PixArtSigmaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]}
    (folder / "ours/model_index.json").write_text(json.dumps(index))
    (folder / "nameless.yaml").write_text("period: 2\n")
    for name in ("folder.mp4", "full", "compared/results.json", "worst", "begun.part"):
        (folder / name).mkdir(parents=True)
    for name in ("full/x", "compared/rows.jsonl", "worst/rows.jsonl", "worst/worst"):
        (folder / name).touch()
    (folder / "cut.safetensors").write_bytes(bytes([9]))
    about = {"setting": {"steps": 30, "size": [64, 64], "frames": 17, "guidance": 4.0}}
    for name, kind in (("prior", PRIOR), ("routers", ROUTERS)):
        head = json.dumps({"__metadata__": {"format": kind, "about": json.dumps(about)}}).encode()
        (folder / f"{name}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
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


def test_no_command_starts_more_ranks_than_a_cpu_can_serve(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("videoaccel.parallel.launch.start_ranks", lambda *_, **__: pytest.fail("ranks were started"))
    monkeypatch.setattr("videoaccel.verification.verify.verify", lambda *_, **__: pytest.fail("ranks were started"))
    for line in (["calibrate", "--gpus", "99"], ["verify", "--ranks", "1,99"]):
        assert run([*line, "--device", "cpu", "-q"]) == 2
        assert "99 ranks were asked for, and this CPU has 2 cores; at most 8 run here" in capfd.readouterr().err


def test_fields_that_are_read_from_files_are_those_of_the_methods() -> None:
    from videoaccel.session.registry import policy_class, policy_names
    from videoaccel.settings.method_fields import fields_of

    bounded = 0
    for name in policy_names():
        told, own = fields_of(name).model_fields, policy_class(name).model_fields
        assert list(told) == list(own), name
        for field, one in told.items():
            assert set(map(str, one.metadata)) <= set(map(str, own[field].metadata)), (name, field)
            bounded += bool(one.metadata)
        assert not any(one.is_required() for one in told.values())
    assert bounded > 40


def test_what_a_method_takes_is_not_refused_early() -> None:
    from videoaccel.session.registry import policy_class, policy_names
    from videoaccel.settings.method_fields import check_method_fields

    for name in policy_names():
        check_method_fields(name, policy_class(name)().model_dump(mode="json"))


def test_kernels_that_are_known_without_torch_are_those_there_are() -> None:
    from videoaccel.generation.attention_kernels import DISPATCHED, NATIVE
    from videoaccel.settings import early

    assert (NATIVE, *DISPATCHED) == early.BACKENDS
