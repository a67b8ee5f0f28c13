"""Two processes at one output: the second is told, and what a killed one leaves holds nobody up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from videoaccel.common.alone import BusyError, alone, check_alone

HOLD = "import sys; from pathlib import Path; from videoaccel.common.alone import alone\n"
HOLD += "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_the_second_is_told_until_the_first_ends(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with alone(out):
        assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.lock"]
        with pytest.raises(BusyError, match=r"another process is at work on .*a.safetensors; wait until it ends, or"):
            check_alone(out)
        with alone(tmp_path / "b.safetensors"):
            pass
    check_alone(out)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    out = tmp_path / "a"
    command = [sys.executable, "-c", HOLD, str(out)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(BusyError):
        check_alone(out)
    other.kill()
    other.communicate()
    assert (tmp_path / "a.lock").exists()
    check_alone(out)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed where there is no such flag")
def test_a_link_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        check_alone(tmp_path / "a")
    assert (tmp_path / "mine").read_text() == "mine"
