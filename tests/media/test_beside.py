"""Work beside the caller's thread: in order, bounded, errors where they belong, and over when the block is left."""

import threading
import time
from concurrent import futures
from functools import partial
from typing import Any

import pytest

from tests.disks import Stop
from videoaccel.media.beside import MOST, Beside

PATIENCE = 20.0  # seconds after which a test that waits for a thread has failed


def test_no_more_is_in_memory_than_is_allowed() -> None:
    made, done, ahead = 0, 0, []

    def slow() -> None:
        nonlocal done
        time.sleep(0.005)
        ahead.append(made - done)
        done += 1

    with Beside() as beside:
        for _ in range(12):
            made += 1
            beside.do([slow])
        beside.wait()
    assert done == 12 and max(ahead) == MOST + 1


def test_after_an_error_no_piece_is_begun() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if number == 1:
            raise RuntimeError("a bad day")

    with Beside() as beside:
        with pytest.raises(RuntimeError, match="a bad day"):
            for start in (0, 3, 6):
                beside.do([partial(work, start + number) for number in range(3)])
            beside.wait()
        time.sleep(0.05)  # for a thread that would go on
        with pytest.raises(RuntimeError, match="a bad day"):
            beside.wait()
    assert done == [0, 1]


def test_ctrl_c_while_the_encoder_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown, begun = futures.ThreadPoolExecutor.shutdown, threading.Event()
    calls: list[bool] = []
    done: list[int] = []

    def interrupted(self: Any, wait: bool = True, **options: Any) -> None:
        calls.append(wait)
        if len(calls) == 1:
            raise Stop
        shutdown(self, wait, **options)

    def slow() -> None:
        begun.set()
        time.sleep(0.05)
        done.append(1)

    monkeypatch.setattr(futures.ThreadPoolExecutor, "shutdown", interrupted)
    with pytest.raises(Stop), Beside() as beside:
        beside.do([slow])
        assert begun.wait(PATIENCE)
    assert done == [1]
