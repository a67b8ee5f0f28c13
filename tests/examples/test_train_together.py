"""Training side by side: what is collected, and programs that fail."""

import argparse
import hashlib
import io
import json
import sys
import tarfile
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from examples import train_together


def test_what_is_collected_unpacks_in_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_together, "PART_BYTES", 4096)
    args = argparse.Namespace(work=tmp_path / "work", out=tmp_path / "out", models=["demo", "dit", "pixart"])
    final = args.work / "demo" / "final" / "transformer"
    final.mkdir(parents=True)
    args.out.mkdir()
    weights = {"a": torch.randn(40, 50), "b": torch.randn(3)}
    save_file(weights, final / "model.safetensors")
    (final / "config.json").write_text("{}")
    (args.work / "demo" / "log.jsonl").write_text('{"step": 50}\n')
    (args.work / "dit" / "final").mkdir(parents=True)
    (args.work / "dit" / "final" / "half.safetensors").write_bytes(b"written this moment")
    train_together.collect(args, [])
    assert {path.name for path in args.out.iterdir()} == {"demo.tar.0", "demo.tar.1", "summary.json", "printed.txt"} | {
        "demo.tar.2"
    }
    whole = b"".join((args.out / f"demo.tar.{index}").read_bytes() for index in range(3))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert tar.extractfile("transformer/config.json").read() == b"{}"
        back = load(tar.extractfile("transformer/model.safetensors").read())
    assert all(torch.equal(back[name], weight.half()) for name, weight in weights.items())
    summary = json.loads((args.out / "summary.json").read_text())
    assert summary["logs"] == {"demo": [{"step": 50}], "dit": [], "pixart": []}
    assert all(
        hashlib.sha256((args.out / name).read_bytes()).hexdigest() == digest
        for name, digest in summary["sha256"].items()
    )


def test_a_program_that_fails_is_started_once_more_in_its_plain_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(work=tmp_path)
    program = train_together.Program("broken", ["json.tool"], args, until=time.monotonic() + 100)
    while program.alive():
        time.sleep(0.02)
    assert program.failures == 1
    assert "broken ended with 2, once more" in capsys.readouterr().out
    assert {"--seconds", *train_together.PLAIN} <= set(program.process.args)
    done = train_together.Program("done", ["this"], args)
    assert done.process.wait() == 0 and not done.alive() and done.failures == 0
    assert "Zen" in done.tail(2000)


@pytest.mark.parametrize(
    ("models", "made"), [(["demo", "dit"], ["stills", "clips"]), (["pixart_lcm"], ["stills"]), (["demo"], ["clips"])]
)
def test_data_are_made_for_the_models_that_are_trained(
    models: list[str], made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model has all of the time where the demo's transformer does not follow."""
    started: dict[str, tuple[list[str], float | None]] = {}

    def program(name: str, command: list[str], args: argparse.Namespace, *, until: float | None = None) -> str:
        started[name] = command, until
        return name

    monkeypatch.setattr(train_together, "Program", program)
    start = time.monotonic()
    args = train_together.options(["--out", str(tmp_path), "--seconds", "1000", "--models", *models])
    assert train_together.programs(args) == (made, models)
    share = {name: (until - start) / 1000 for name, (_, until) in started.items() if until is not None}
    assert share.keys() == set(models)
    late = 1 - train_together.WIND_DOWN / 1000
    for name in models:
        early = name != "demo" and "demo" in models
        assert share[name] == pytest.approx(train_together.SMALL_SHARE if early else late, abs=0.01)
        command = started[name][0]
        module, told = import_module(command[0]), []
        monkeypatch.setattr(module, "train", told.append)
        monkeypatch.setattr(sys, "argv", command)
        module.main()
        assert (told[0].wait, told[0].out) == (150.0, args.work / name)
