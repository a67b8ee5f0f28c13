"""What goes wrong on the command line: one sentence, the right exit code, and nothing half done left behind."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from tests.cli.commands import ROOT, Cli, here, python
from tests.disks import small_disk
from videoaccel.__main__ import main
from videoaccel.cli.errors import SaidError, exit_code, interrupt, terminate
from videoaccel.common import files
from videoaccel.generation import prepared as denoising


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (
            ["x", "--model", "nothing"],
            2,
            "no model or folder is called 'nothing'; there are demo, dit-xl-2-256, dit-xl-2-512, latte-1, ",
        ),
        (["x", "--stepz", "3"], 2, "No such option: --stepz"),
        (["x", "--num_frames", "3"], 2, "there is no option --num_frames; it is --frames here"),
        (["x", "--height", "3"], 2, "there is no option --height; it is --size HEIGHTxWIDTH here"),
        (["--prompt", "x"], 2, "there is no option --prompt; it is PROMPT (in quotes, no option) here"),
        (["x", "--steps"], 2, "--steps"),
        (["x", "--set", "stepz=3"], 2, "--set stepz: unknown option 'stepz'; did you mean steps?"),
        (["x", "--set", "a.b=c"], 2, "--set a: unknown option 'a'"),
        (["x", "--config", "bad.yaml"], 2, "bad.yaml: stepz: unknown option 'stepz'; did you mean steps?"),
        (["x", "--config", "broken.yaml"], 2, "broken.yaml is not valid YAML"),
        (["x", "--config", "none.yaml"], 2, "none.yaml does not exist"),
        (["x", "--config", "twice.yaml"], 2, "twice.yaml is not valid YAML: steps is given twice (line 2)"),
        (["x", "--config", "."], 2, "configuration file . is a folder, not a file"),
        (["x", "--config", "noise.png"], 2, "configuration file noise.png is not a text file in UTF-8"),
        (["x", "--set", "steps=true"], 2, "--set steps: true is for switches only"),
        (["x", "--size", "0x0"], 2, "--size: a size is HEIGHTxWIDTH in pixels, both from 1 to 99999, such as 240x426"),
        (["x", "--size", "wide"], 2, "got 'wide'"),
        (["x", "--size", "1x1"], 2, "height must be at least 2 pixels, got 1"),
        (["x", "--frames", "many"], 2, "--frames: frames must be a positive whole number"),
        (["x", "--steps", "0"], 2, "--steps: '0': input should be greater than or equal to 1"),
        ([], 2, "there is no prompt"),
        ([""], 2, "the prompt is empty: ''"),
        (["page 12"], 2, "the prompt is empty once cleaned: 'page 12'"),
        (["--prompts", "none.txt"], 2, "--prompts none.txt does not exist"),
        (["--prompts", "noise.png"], 2, "--prompts noise.png is not a text file"),
        (["--prompts", "."], 2, "--prompts . is a folder, not a file"),
        (["-"], 2, "stdin holds no prompt"),
        (["x", "--image", "none.png"], 2, "none.png does not exist"),
        (["x", "--image", "noise.png"], 2, "noise.png is not a readable picture"),
        (["x", "--video", "noise.mp4"], 2, "noise.mp4 is not a readable video"),
        (["x", "--image", "noise.png", "--video", "noise.mp4"], 2, "give only one of --image, --video and --reference"),
        (["x", "--extend", "forward"], 2, "--extend and --edit need a clip, such as --video clip.mp4"),
        (
            ["x", "--reference", "noise.png"],
            2,
            "give a --mask-strategy with --reference, to say where they go; --mask-strategy 0",
        ),
        (["x", "--mask-strategy", "0"], 2, "--mask-strategy needs frames to place, such as --reference a.png; --image"),
        (["x", "--mask-strategy", ""], 2, "--mask-strategy is empty; leave it out"),
        (["x", "--set", "zzz=3"], 2, "--set zzz: unknown option 'zzz'; videoaccel generate --help lists all"),
        (["x", "--set", "scheduler.base_sise=3"], 2, "the scheduler has no field base_sise; there are base_size"),
        (["x", "--guidance", "1", "--negative-prompt", "y"], 2, "--negative-prompt does nothing at --guidance 1;"),
        (["x", "-o", "out.avi"], 2, "cannot write 'out.avi': its name must end in .mp4, .gif, .png"),
        (["x", "-o", "no/where/out.mp4"], 2, "cannot write no/where/out.mp4: the folder"),
        (["x", "-o", f"{'x' * 256}.mp4"], 2, "x.mp4: the name is too long for this disk; choose a shorter one"),
        (["x", "-o", f"{'x' * 246}.mp4", "--contact-sheet"], 2, "x-sheet.png: the name is too long for this disk"),
        (["x", "--image", "x" * 256], 2, "x: file name too long"),
        (["x", "--device", "gpu"], 2, "unknown device 'gpu'; there are cpu, cuda, cuda:N and mps"),
        (["x", "--attention", "magic"], 2, "unknown attention backend 'magic'; there are native, cudnn, efficient"),
        (["--from", "none.json"], 2, "none.json does not exist; --from takes the .json that was written beside a clip"),
        (["--from", "bad.yaml"], 2, "bad.yaml is not valid JSON"),
        (["--from", "noise.mp4"], 2, "noise.mp4 is not a text file in UTF-8; --from takes the .json that was written"),
        (["--from", "."], 2, ". is a folder, not a file; --from takes the .json"),
    ],
)
def test_bad_input_is_one_sentence(generate: Cli, arguments: list[str], code: int, message: str) -> None:
    Path("bad.yaml").write_text("stepz: 3\n")
    Path("broken.yaml").write_text("steps: [1,\n")
    Path("twice.yaml").write_text("steps: 1\nsteps: 2\n")
    for name in ("noise.png", "noise.mp4"):
        Path(name).write_bytes(bytes(range(256)))
    before = here()
    done = generate(*arguments)
    assert done.code == code and message in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("videoaccel: ") and message in last, "one sentence, on one line"
    assert "Traceback" not in done.err and done.out == "" and here() == before


def test_what_has_no_effect_is_told_even_by_a_dry_run(generate: Cli) -> None:
    Image.new("RGB", (9, 9)).save("a.png")
    done = generate("x", "--reference", "a.png", "--mask-strategy", "0,4", "--dry-run")
    assert done.code == 2 and "(0,4) of the mask strategy: there is no reference 4; loop 0 has 1" in done.err
    done = generate("|0|x|1|y")
    assert done.code == 2 and done.err.endswith("raise --loops (now 1), or give an earlier one\n") and done.out == ""


def test_unknown_command(cli: Cli) -> None:
    done = cli("generat")
    assert done.code == 2 and "No such command 'generat'" in done.err


def test_traceback_only_with_debug(generate: Cli) -> None:
    done = generate("x", "--steps", 0, "--debug")
    assert done.code == 2 and "Traceback" in done.err
    assert "--steps: '0'" in done.err.splitlines()[-1]
    # Behind -- it is a prompt like any other.
    assert "--debug" in generate("--dry-run", "--", "--debug").out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(generate: Cli) -> None:
    done = generate("x", "--device", "cuda")
    assert done.code == 2 and "device 'cuda' was asked for, but torch" in done.err and "--device cpu" in done.err


def test_a_released_model_without_a_network(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("...")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    done = cli("generate", "x", "--model", "opensora-v1.2")
    assert done.code == 1 and "hpcai-tech/OpenSora-STDiT-v3 is no folder here and could not be had" in done.err
    assert done.err.endswith("without a network give folders as --model, --vae and --text-encoder\n")
    assert "LocalEntryNotFoundError" not in done.err


def test_read_only_folder(generate: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Any, mode: str) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "open", refused, raising=False)
    done = generate("x")
    assert done.code == 2 and "cannot write out.mp4" in done.err and "is read-only for this user" in done.err


@pytest.mark.parametrize("output", ["out.mp4", "out.gif"])
def test_disk_full(generate: Cli, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    assert generate("x", "-o", f"whole-{output}").code == 0
    size = Path(f"whole-{output}").stat().st_size
    before = here()
    monkeypatch.setattr(small_disk(monkeypatch), "room", size - 1)
    done = generate("x", "-o", output)
    assert done.code == 1 and f"cannot write {output}: " in done.err and "is full" in done.err
    assert here() == before


def test_out_of_memory(generate: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.31 GiB.")

    monkeypatch.setattr(denoising, "denoise", full)
    done = generate("x")
    expected = "videoaccel: out of memory on cpu during denoise: lower --size (now 32x32) or --frames (now 17)"
    assert done.code == 1 and expected in done.err and here() == []


def test_interrupted_in_mid_loop(generate: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, callback: Any, **__: Any) -> None:
        callback(0, torch.zeros(1), torch.zeros(1))
        raise KeyboardInterrupt

    monkeypatch.setattr(denoising, "denoise", interrupted)
    done = generate("x")
    assert done.code == 130 and here() == []
    assert done.err.splitlines()[-1] == "videoaccel: stopped; no half-written file was left"


def test_ctrl_c_leaves_no_half_file(pipeline_folder: Path, tmp_path: Path) -> None:
    command = python("-m", "videoaccel", "generate", "x", "--model", str(pipeline_folder), "--steps", "100000")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("denoise"):
                break
        time.sleep(0.2)
        assert list(tmp_path.glob(".*.part")), "a file is open"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert list(tmp_path.iterdir()) == [] and "Traceback" not in rest
    assert rest.splitlines()[-1] == "videoaccel: stopped; no half-written file was left"


def test_a_scheduler_ends_a_job_cleanly(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["videoaccel", "generate", "x", "--model", str(pipeline_folder)])
    monkeypatch.setattr(denoising, "denoise", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert stop.value.code == 143 and here() == []
    assert capfd.readouterr().err.splitlines()[-1] == "videoaccel: ended by SIGTERM; no half-written file was left"


@pytest.mark.parametrize(("raised", "word"), [(interrupt, "stopped"), (terminate, "ended by SIGTERM")])
def test_who_is_told_to_end_says_so_once(
    raised: Callable[[int, None], None], word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def swallowed() -> None:  # as libraries do while they are imported
        try:
            raised(0, None)
        except BaseException as error:
            raise ImportError("half a library") from error

    code = exit_code(lambda: raised(0, None), debug=False, resumes=True)
    assert code == exit_code(swallowed, debug=False, resumes=True)
    said = f"videoaccel: {word}; the same command goes on from what was kept\n"
    assert capfd.readouterr().err == said * 2
    monkeypatch.setenv("VIDEOACCEL_LAUNCHER", "1")
    assert exit_code(lambda: raised(0, None), debug=False) == code
    assert capfd.readouterr().err == ""


def test_the_end_of_ranks_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    def ranks(code: int) -> None:
        raise SaidError(code)

    assert exit_code(lambda: ranks(143), debug=False) == 143
    assert capfd.readouterr().err == "videoaccel: ended by SIGTERM; no half-written file was left\n"
    assert exit_code(lambda: ranks(1), debug=False) == 1
    assert capfd.readouterr().err == ""


def test_an_unforeseen_failure_is_1(generate: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a\nbug")

    monkeypatch.setattr(denoising, "denoise", broken)
    done = generate("x")
    assert done.code == 1 and done.err.splitlines()[-1] == "videoaccel: RuntimeError: a bug (--debug shows where)"


def test_what_stopped_one_command_stops_no_other() -> None:
    """In one process: Ctrl-C belongs to the command that it struck."""
    import signal

    from videoaccel.cli.errors import INTERRUPTED, exit_code, interrupt

    def struck() -> None:
        try:
            interrupt(signal.SIGINT, None)
        except KeyboardInterrupt:
            raise ImportError("what a library makes of it") from None

    def wrong() -> None:
        raise ValueError("no such thing")

    assert exit_code(struck, debug=False) == INTERRUPTED
    assert exit_code(wrong, debug=False) == 2


def test_importing_the_program_leaves_signals_alone() -> None:
    code = "import signal, videoaccel.__main__; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
