"""The check of a GPU runs to its end without one, so that the first GPU does not find its mistakes."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="it measures kernels")
from benchmarks import gpu_check
from benchmarks.gpu import graphs, learning
from benchmarks.gpu.bench import Bench, DeadContextError
from videoaccel.models import fused


@pytest.fixture(autouse=True)
def _uninterpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in the interpreter take minutes at these sizes; they have tests of their own."""
    monkeypatch.setattr(fused, "INTERPRETED", False)


SLOWER = ("vae", "methods", "profile", "graphs", "decoder")
COSTLY = ("compiled parts", "triton kernels and compiled", "whole compile", "ranks", "demo", "demo training")


@pytest.mark.parametrize("skipped", [(*COSTLY, *SLOWER), pytest.param(COSTLY, marks=pytest.mark.slow)])
def test_every_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: tuple[str, ...]) -> None:
    monkeypatch.setattr(
        "sys.argv", ["gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path), "--skip", ",".join(skipped)]
    )
    gpu_check.main()
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found.keys() == gpu_check.SECTIONS.keys() - {*skipped}
    assert not [name for name, section in found.items() if "failed" in section or "skipped" in section]
    assert found["calibration"]["passes"] == 6 and found["calibration"]["all measured"]
    assert len(found["router training"]["tiny"]["losses"]) == 4
    assert found["golden"]["float32, worst relative error, TF32 in convolutions off"] < 1e-5


def test_graphs_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "TINY", ("step, 144p, 17 frames, kernels", "what cannot"))
    monkeypatch.setattr(
        "sys.argv", ["gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "graphs"]
    )
    gpu_check.main()
    found = json.loads((tmp_path / "gpu_check.json").read_text())["graphs"]
    assert found["step, 144p, 17 frames, kernels"]["bits"] == ["same bits"] * 3
    assert found["what cannot be recorded"]["bits"] == ["same bits"] * 2
    assert not [key for key, value in found.items() if "failed" in str(value)]


STAND_IN = """
import argparse, json, pathlib
from safetensors import safe_open
parser = argparse.ArgumentParser()
for name in ("latents", "out", "text", "device"):
    parser.add_argument("--" + name, required=True)
for name in ("batch", "steps", "log-steps"):
    parser.add_argument("--" + name, type=int, required=True)
for name in ("compile", "record"):
    parser.add_argument("--" + name, action=argparse.BooleanOptionalAction, default=True)
args = parser.parse_args()
with safe_open(next(pathlib.Path(args.latents).iterdir()), "np") as shard:
    clips, said = shard.get_slice("latents").get_shape(), json.loads(shard.metadata()["sentences"])
assert (clips, len(said), args.device, args.text) == ([512, 8, 5, 16, 16], 512, "cpu", "demo"), clips
assert args.compile or not args.record or args.steps != 300, "no room"
out = pathlib.Path(args.out)
out.mkdir()
lines = [{"step": step, "loss": 1.5} for step in range(args.log_steps, args.steps + 1, args.log_steps)]
lines += [{"done": args.steps, "of": args.steps, "seconds": args.steps / (1 + args.record + 2 * args.compile)}]
(out / "log.jsonl").write_text("".join(json.dumps(line) + chr(10) for line in lines))
print("made ready for clips" if args.record else "nothing to say", flush=True)
"""


def test_the_demo_models_training_is_timed_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is another here, which logs so and so many steps a second, and cannot do it one of the ways."""
    (tmp_path / "stand_in_trainer.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(learning, "TRAINER", "stand_in_trainer")
    bench = Bench(torch.device("cpu"), tiny=False, file=None, until=0)
    bench.section = "demo training"
    learning.demo_training(bench)
    found = bench.record["demo training"]
    assert list(found) == list(learning.WAYS)
    assert found["recorded"].startswith("failed: RuntimeError:") and found["recorded"].endswith("no room")
    ways = [found["compiled and recorded"], found["as it stands"]]
    assert [(way["steps a second"], way["batch"], way["steps"]) for way in ways] == [(4, 128, 600), (1, 128, 100)]
    assert [way["printed"] for way in ways] == [["made ready for clips"], []]
    assert all(way["losses are numbers"] for way in ways)


@pytest.mark.slow
def test_the_demo_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "demo training"]
    )
    gpu_check.main()
    (way,) = json.loads((tmp_path / "gpu_check.json").read_text())["demo training"].values()
    assert way["steps"] == 2 and way["losses are numbers"]


def test_a_dead_device_costs_its_section_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(bench: object) -> None:
        raise DeadContextError("an illegal memory access")

    monkeypatch.setitem(gpu_check.SECTIONS, "dense", (dies, 5))
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, command: started.append(command))
    monkeypatch.setattr(
        "sys.argv",
        ["gpu_check", "--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "environment,dense,fp8"],
    )
    gpu_check.main()
    (command,) = started
    assert command[command.index("--only") + 1] == "fp8"
    assert "--tiny" in command
    assert json.loads((tmp_path / "gpu_check.json").read_text())["dense"]["failed"].startswith("DeadContextError")


def test_sections_have_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check", "--only", "dance"])
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert "no section 'dance'; there are environment, ceilings" in capsys.readouterr().err
