"""The check of a GPU runs to its end without one, so that the first GPU does not find its mistakes."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="it measures kernels")
from benchmarks import gpu_check
from benchmarks.gpu import graphs
from benchmarks.gpu.bench import DeadContextError
from videoaccel.models import fused


@pytest.fixture(autouse=True)
def _uninterpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in the interpreter take minutes at these sizes; they have tests of their own."""
    monkeypatch.setattr(fused, "INTERPRETED", False)


SLOWER = ("vae", "methods", "profile", "graphs", "decoder")
COSTLY = ("compiled parts", "triton kernels and compiled", "whole compile", "ranks", "demo")


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
