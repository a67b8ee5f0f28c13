"""Ranks meet, or say within minutes for whom they wait; and a launcher may start them again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from videoaccel.cli.ranks import is_rank
from videoaccel.parallel import meeting
from videoaccel.parallel.meeting import meet
from videoaccel.parallel.mesh import Mesh, rank_here, ranks_here

ROOT = Path(__file__).parents[2]
colossalai = pytest.mark.skipif(find_spec("colossalai") is None, reason="colossalai is not installed")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a launcher of two ranks leaves, of which this is the first; nobody listens at the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return env


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"WORLD_SIZE": ""}, r"WORLD_SIZE is '', not a number; unset it, or start ranks by --gpus or torchrun"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two', not a number"),
        ({"WORLD_SIZE": "-1"}, r"WORLD_SIZE is '-1', not a number"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE is 0; unset it"),
        ({"RANK": ""}, r"RANK is '', not a number"),
        ({"RANK": "2"}, r"RANK is 2, of 2 by WORLD_SIZE; unset both"),
        ({"MASTER_ADDR": ""}, r"is one of 2 ranks, and MASTER_ADDR \(not set\) and MASTER_PORT \(\d+\) not where they"),
        ({"MASTER_PORT": "99999"}, r"MASTER_PORT \(99999\) not where they meet"),
        ({"MASTER_PORT": "http"}, r"MASTER_PORT is 'http', not a number"),
    ],
)
def test_values_that_make_no_sense_are_a_sentence(
    started: dict[str, str], monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        rank_here()
        ranks_here()
        is_rank()
        Mesh.from_env()


@pytest.mark.parametrize(
    ("rank", "said"), [("0", "rank 1 did not come to 127.0.0.1:"), ("1", "rank 0 did not come to 127.0.0.1:")]
)
def test_who_does_not_come_is_named(
    started: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    said: str,
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(meeting, "TOLD_AFTER", 0.2)
    with pytest.raises(
        OSError, match=rf"{said}{started['MASTER_PORT']} .* in \d s; a lone process needs WORLD_SIZE to be"
    ):
        meet(limit=0.6)
    assert f"rank {rank} has waited 0 s for rank {1 - int(rank)} to" in capsys.readouterr().err


@contextlib.contextmanager
def sent(number: signal.Signals) -> Iterator[None]:
    """Get a signal while the block waits; SIGTERM as the command line takes it."""

    def stop(got: int, _: object) -> None:
        raise SystemExit(128 + got)

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_waiting_ends_with_a_signal(
    started: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    monkeypatch.setenv("RANK", rank)
    begun = time.monotonic()
    with sent(number), pytest.raises(raised):
        meet(limit=60)
    assert time.monotonic() - begun < 30  # far below the limit


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_left_over_launcher_is_told_of_and_ends(
    started: dict[str, str], number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "videoaccel", "generate", "a red circle", "--steps", "2", "-o", "out.mp4"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "has waited" in line:
            break
    assert "for rank 1 to come at 127.0.0.1:" in line
    process.send_signal(number)
    assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "victim", "provider"),
    [
        ("denoise", 1, "torch"),
        ("decode", 1, "torch"),
        ("write", 0, "torch"),
        pytest.param("denoise", 1, "colossalai", marks=colossalai),
        pytest.param("write", 0, "colossalai", marks=colossalai),
    ],
)
def test_torchrun_starts_ranks_again(
    pipeline_folder: Path, tmp_path: Path, stage: str, victim: int, provider: str
) -> None:
    """A rank is killed in the first try; the second makes the clip that a lone process makes."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--master-port", _port()]
    script = ["-m", "tests.parallel.restarted_rank", str(pipeline_folder), stage, str(victim), "out.gif", provider]
    beside = os.environ.get("PYTHONPATH", "")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{beside}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".part"))  # SIGKILL clears nothing
    assert left == ["killed", "out.gif", "out.json"]
    alone = [sys.executable, "-m", "tests.parallel.restarted_rank", str(pipeline_folder), "none", "0", "alone.gif"]
    subprocess.run(alone, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "alone.gif").stat().st_size == pytest.approx((tmp_path / "out.gif").stat().st_size, rel=0.1)


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
