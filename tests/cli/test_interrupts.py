"""Ctrl-C at any moment, while Python still imports, too: no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = (["--help"], ["methods"], ["generate", "a red circle", "-o", "out.mp4"], ["doctor"], ["status", "nowhere"])


def interrupted(command: list[str], folder: Path, *, after: float) -> tuple[int, str]:
    """Exit code and last words of a command that is interrupted so many seconds after its own code has begun."""
    begun = folder / "begun"
    begun.unlink(missing_ok=True)
    # Before that there is Python alone, which says what it says.
    (folder / "sitecustomize.py").write_text(f"import atexit; open({str(begun)!r}, 'w').close()\n")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))])
    process = subprocess.Popen(
        [sys.executable, "-m", "videoaccel", *command], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not begun.exists():
        time.sleep(0.002)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def check(command: list[str], folder: Path, *, after: float) -> None:
    code, said = interrupted(command, folder, after=after)
    assert "Traceback" not in said and "KeyboardInterrupt" not in said, (after, said)
    assert code in (0, 2, 130, -signal.SIGINT), (after, code, said)
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("after", [0.06, 0.2])
def test_the_first_moments(tmp_path: Path, after: float) -> None:
    check(["methods"], tmp_path, after=after)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0].strip("-"))
def test_any_moment(tmp_path: Path, command: list[str]) -> None:
    for after in (0.05, 0.08, 0.12, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0):
        check(command, tmp_path, after=after)
