"""Ranks that are killed, sleep, fail, differ; ports in use. Nobody hangs, nothing half-written stays."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from videoaccel.common.files import PART_SUFFIX
from videoaccel.parallel.launch import start_ranks

ROOT = Path(__file__).parent.parent.parent


def started(what: str, folder: Path, capfd: pytest.CaptureFixture[str], *, ranks: int = 2) -> tuple[int, str]:
    """Exit code of the run, and what its ranks say."""
    command = [sys.executable, "-m", "tests.parallel.fault_ranks", what, str(folder / "out.gif")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(ROOT)
        code = start_ranks(command, ranks=ranks)
    return code, capfd.readouterr().err


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill", "stop", "raise", "sleep", "differ", "config"])
def test_the_others_say_who_and_where(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = started(what, tmp_path, capfd)
    expected = {
        "kill": r"rank 1 was killed (SIGKILL)",
        "stop": ": no sign of life for 1",  # the launcher's words, or its own
        "raise": "rank 1 failed: a bad day",
        "sleep": "rank 1 does not come",
        "differ": "ranks decided differently in step 2 at space.3.attn: rank 1 reuse, rank 0 compute",
        "config": "rank 1 was told `steps` 4, rank 0 3",
    }[what]
    first = next(line for line in said.splitlines() if line.startswith("rank 0 says: "))
    assert expected in first
    if what == "config":
        assert sum(line.endswith("(as rank 0 did)") for line in said.splitlines()) == 1
    if what in ("kill", "stop", "raise", "sleep"):
        assert "step 2, space.3.attn" in first
    assert code != 0 and left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    output = str(tmp_path / "out.gif")
    script = (
        "import sys; from videoaccel.parallel.launch import start_ranks;"
        f"start_ranks([sys.executable, '-m', 'tests.parallel.fault_ranks', 'wait', {output!r}], ranks=2)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    while len(ranks := running(output)) < 2 or not all((tmp_path / f"{rank}.ready").exists() for rank in range(2)):
        assert launcher.poll() is None
        time.sleep(0.1)
    launcher.kill()
    said = launcher.communicate(timeout=20)[1]  # until the last of them closes it
    assert running(output) == [] and len(ranks) == 2
    assert "rank 0: the process that started the ranks is gone (this rank: step 2, space.3.attn)" in said
    assert said.count("\n") <= 2


@pytest.mark.slow
def test_a_rank_killed_in_decode(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = started("decode", tmp_path, capfd)
    first = next(line for line in said.splitlines() if line.startswith("rank 0 says: "))
    assert "rank 1 was killed (SIGKILL)" in first and first.endswith("(this rank: step 3, decode)")
    assert code != 0 and left(tmp_path) == []


@pytest.mark.slow
def test_the_rank_that_writes_is_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it had begun stays under its temporary name; nothing is there under the clip's."""
    code, said = started("write", tmp_path, capfd)
    first = next(line for line in said.splitlines() if line.startswith("rank 1 says: "))
    assert "rank 0 was killed (SIGKILL)" in first and first.endswith("(this rank: step 3, decode)")
    (part,) = left(tmp_path)
    assert code != 0 and part.startswith(".out.gif.") and part.endswith(PART_SUFFIX)


@pytest.mark.slow
def test_torchrun_ends_nobody_that_stands_still_but_the_others_say_who(tmp_path: Path) -> None:
    """After their patience (25 s); torchrun then gives the one that stands another 30 to end."""
    output = str(tmp_path / "out.gif")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*start, "-m", "tests.parallel.fault_ranks", "stop", output]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    first = next(line for line in done.stderr.splitlines() if line.startswith("rank 0 says: "))
    assert "rank 1 is gone: no sign of life for " in first and "step 2, space.3.attn" in first
    assert done.returncode != 0 and left(tmp_path) == [] and running(output) == []


def running(argument: str) -> list[int]:
    """Rank processes with this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if argument.encode() in words:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_number_that_is_none_means_compute(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert started("nan", tmp_path, capfd) == (0, "")
    assert left(tmp_path) == ["out.gif"]


def test_the_launcher_ends_what_is_left_and_tells_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that import nothing: one fails, the other would sleep for ever."""
    monkeypatch.setattr("videoaccel.parallel.launch.GRACE", 0.5)
    script = (
        "import os, sys, time; open(os.environ['RANK'], 'w').write(str(os.getpid()));"
        "sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(600)"
    )
    monkeypatch.chdir(tmp_path)
    assert start_ranks([sys.executable, "-c", script], ranks=2) == 7
    for rank in ("0", "1"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(Path(rank).read_text()), 0)


def test_the_launcher_wires_ranks_like_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, os; json.dump(dict(os.environ), open(os.environ['RANK'] + '.json', 'w'))"
    monkeypatch.chdir(tmp_path)
    assert start_ranks([sys.executable, "-c", script], ranks=2) == 0
    found = [json.loads(Path(f"{rank}.json").read_text()) for rank in range(2)]
    assert [(env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) for env in found] == [("0", "0", "2"), ("1", "1", "2")]
    assert found[0]["MASTER_PORT"] == found[1]["MASTER_PORT"] and "OMP_NUM_THREADS" in found[0]


@pytest.mark.slow
def test_a_port_in_use_and_a_world_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.parallel.fault_ranks", "none", str(tmp_path / "out.gif")]
    base = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "RANK": "0"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = base | {"WORLD_SIZE": "2", "MASTER_PORT": port}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"port {port} (MASTER_PORT) is in use by another process; choose another" in done.stderr
    alone = base | {"WORLD_SIZE": "1", "MASTER_PORT": port}
    done = subprocess.run(command, env=alone, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "out.gif").read_text() == "alone"


@pytest.mark.slow
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """No orphans: the store that holds them together dies with it."""
    script = (
        "import sys; from videoaccel.parallel.launch import start_ranks;"
        f"command = [sys.executable, '-m', 'tests.parallel.fault_ranks', 'sleep', {str(tmp_path / 'o.gif')!r}];"
        "start_ranks(command, ranks=2)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    while len(ranks := children.read_text().split()) < 2:
        time.sleep(0.1)
    time.sleep(10)
    launcher.kill()
    launcher.wait()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{rank}/status").exists() for rank in ranks) and time.monotonic() < end:
        time.sleep(0.5)
    assert not any(Path(f"/proc/{rank}/status").exists() for rank in ranks)
