"""A command line to run in an empty folder."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from videoaccel.cli.app import run

ROOT = Path(__file__).parent.parent.parent


class Result(NamedTuple):
    """What came of a command line."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def here() -> list[str]:
    """What is in the working folder."""
    return sorted(path.name for path in Path().iterdir())


def sidecar(name: str = "out.json") -> Any:
    """Contents of a sidecar."""
    return json.loads(Path(name).read_text())


def python(*arguments: str) -> list[str]:
    """A command that runs this Python."""
    return [sys.executable, *arguments]


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Makes command lines run in a folder, which holds their caches, too."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))

    def call(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return call
