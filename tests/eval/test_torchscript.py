"""Weights of a TorchScript archive, without its program."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from videoaccel.eval.backbones import read_checkpoint
from videoaccel.eval.torchscript import read_torchscript


class Net(torch.nn.Module):
    def __init__(self, trace: str = "") -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1).half(), torch.nn.BatchNorm2d(2))
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("count", torch.tensor([1, 2]))
        self.sizes, self.names, self.k = [1, 2], ["a", "b"], 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.k


class Loud(torch.nn.Module):
    """Its archive runs code when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        print("run")


def test_the_tensors_are_those_of_the_module(tmp_path: Path) -> None:
    net, path = torch.jit.script(Net()), tmp_path / "net.pt"
    net.save(str(path))
    found, wanted = read_checkpoint(path), net.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)


def test_no_code_of_an_archive_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loud.pt"
    torch.jit.script(Loud()).save(str(path))
    torch.jit.load(str(path))
    assert "run" in capfd.readouterr().out, "so it would"
    monkeypatch.setattr(torch.jit, "load", None)
    assert read_checkpoint(path) == {}, "it says in code alone what its tensors are called"
    assert capfd.readouterr().out == ""


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(Evil(), protocol=2))
        file.writestr("x/constants.pkl", pickle.dumps(()))
    with pytest.raises(ValueError, match=r"it is no archive of tensors: it asks for posix.mkdir"):
        read_torchscript(path)
    assert not (tmp_path / "made").exists()
