"""Several processes share a folder; some are killed, some have clocks of their own, one has a copy of the folder."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.rendering.studio import FakeRenderer, Studio, check_whole, events
from videoaccel.rendering import heartbeat, manifest
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.run import Render

# Forked, so that a worker is there at once; they do nothing that threads of this process could have locked.
FORK = multiprocessing.get_context("fork")


class WrongClock(datetime):
    """An hour off, in one direction or the other."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        sign = 1 if os.getpid() % 2 else -1
        return datetime.now(tz or timezone.utc) + sign * timedelta(hours=1)


def worker(studio: Studio, render: Render, rules: Rules, seconds: float) -> None:
    manifest.datetime = WrongClock  # type: ignore[attr-defined,misc]
    studio.work(render, FakeRenderer(seconds=seconds), rules=rules)
    os._exit(0)


@contextmanager
def workers(start: Callable[[], Any], count: int) -> Iterator[list[Any]]:
    """So many processes; whatever happens, none stays."""
    running = [start() for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.join()


def killed_now_and_then(start: Callable[[], Any], *, count: int, every: float, chance: random.Random) -> int:
    """Kill one of the workers again and again, and start another in its place, until they have nothing left to do."""
    kills = 0
    with workers(start, count) as running:
        while any(process.is_alive() for process in running):
            time.sleep(every * (0.5 + chance.random()))
            alive = [number for number, process in enumerate(running) if process.is_alive()]
            if len(alive) == count:  # as long as there is work for all
                number = chance.choice(alive)
                os.kill(running[number].pid, signal.SIGKILL)
                running[number].join()
                running[number] = start()
                kills += 1
        assert all(process.exitcode == 0 for process in running)
    return kills


@pytest.mark.parametrize("by_counter", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_that_are_killed_with_clocks_that_differ(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, by_counter: bool
) -> None:
    """All clips once, each that of an undisturbed run; no lease, nothing half-made."""
    jobs, every = (200, 1.0) if by_counter else (60, 0.3)
    if by_counter:  # as on another machine, where only the counter tells
        monkeypatch.setattr(heartbeat, "gone", lambda text: False)
    render = studio.many(jobs)
    rules = Rules(stale=2.0, deaths=50)
    start = lambda: _started(worker, studio, render, rules, 0.05)  # noqa: E731
    kills = killed_now_and_then(start, count=3, every=every, chance=random.Random(0))
    assert kills >= 2
    assert studio.work(render).done == jobs
    check_whole(render)
    assert len(events(render, "taken")) >= 1
    assert not list(render.folder.workers.path.glob("*.beat")) or by_counter


def _started(target: Callable[..., None], *arguments: Any) -> Any:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def test_a_folder_that_is_copied_half_way(studio: Studio, tmp_path: Path) -> None:
    """The copy is gone on with elsewhere, and both come to the same clips."""
    render = studio.many(24)
    rules = Rules(stale=0.5)
    copy = tmp_path / "copy"
    with workers(lambda: _started(worker, studio, render, rules, 0.1), 2) as running:
        until = time.monotonic() + 60
        while len(render.folder.finished()) < 5 and time.monotonic() < until:
            time.sleep(0.02)
        # Files vanish while it copies; cp goes on, and says so.
        subprocess.run(["cp", "-r", str(studio.out), str(copy)], stderr=subprocess.DEVNULL, check=False)
        for process in running:
            process.join(120)
            assert process.exitcode == 0
    other = studio.open(out=copy)
    found = len(other.folder.finished())
    assert 5 <= found <= 24
    outcome = studio.work(other, rules=rules)
    assert outcome.done == 24 and outcome.made == 24 - found
    check_whole(render)
    check_whole(other)


def test_each_worker_begins_somewhere_else_and_helps_the_others(studio: Studio) -> None:
    render = studio.many(30)
    with workers(lambda: _started(worker, studio, render, Rules(stale=5.0), 0.05), 3) as running:
        for process in running:
            process.join(120)
    check_whole(render)
    done = events(render, "done")
    assert len(done) == 30 and len({row["job"] for row in done}) == 30, "nothing was made twice"
    assert len({row["worker"] for row in done}) == 3


@pytest.mark.slow
def test_a_real_disk_that_fills_up_and_is_freed(studio: Studio, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        render = studio.open({"prompt": "a", "seed": {"from": 0, "to": 39}}, out=disk / "out")
        ballast = disk / "ballast"
        rules = Rules(stale=1.0, pause=0.1)
        with workers(lambda: _started(worker, studio, render, rules, 0.1), 2) as running:
            for _ in range(3):
                time.sleep(0.7)
                with suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(b"\0" * 4096)
                        file.flush()
                time.sleep(0.7)
                ballast.unlink(missing_ok=True)
            for process in running:
                process.join(120)
                assert process.exitcode == 0
        check_whole(render)
        assert events(render, "failed") == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_half_copied_folder_of_leases_is_no_work(studio: Studio) -> None:
    """What is in the hidden folder may be lost; clips are what counts."""
    render = studio.many(2)
    studio.work(render)
    shutil.rmtree(render.folder.work / "leases")
    assert studio.work(studio.open()).done == 2
