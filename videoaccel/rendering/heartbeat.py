"""How workers know of each other whether they live: a counter that each raises, watched by the others' own clocks.

No clock of one machine is compared with another's. A worker is dead when its counter has stood still for a while of the
observer's monotonic time, or, on the same machine, as soon as its process is gone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoaccel.rendering.inside import Inside, is_worker
from videoaccel.rendering.said import PassedOver

STALE = 60.0
"""Seconds for which a counter stands still before its worker is taken for dead."""

BEATS = 6
"""Times that a counter is raised in that while."""

LONGEST = 86400.0
"""Seconds: what a worker says of its own patience counts up to a day."""

BEAT = ".beat"
"""How the names of counters end."""

_LIMIT = 1 << 10  # bytes of a counter


def new_worker() -> str:
    """A name that no other worker has, anywhere: machine, process, and a random part."""
    node = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in platform.node())
    return f"{node[:24].lstrip('-') or 'host'}-{os.getpid()}-{secrets.token_hex(4)}"


class Heartbeat:
    """Raises a worker's counter, in a thread, as long as the process lives; use it in a ``with`` block.

    The counter is overwritten in place in a file of fixed size, so that a full disk does not look like death.

    Args:
        folder: Where workers' files are.
        worker: Its name.
        stale: Seconds after which others take it for dead.
        watch: Called at every beat, and at least once a second: whoever watches over the worker's time.
    """

    def __init__(self, folder: Inside, worker: str, *, stale: float = STALE, watch: Callable[[], None] | None = None):  # noqa: ANN204
        self.folder, self.beat, self.about = folder, f"{worker}{BEAT}", f"{worker}.json"
        self.stale, self.watch = stale, watch
        self.counter = 0
        self.said: Mapping[str, Any] = {}
        self._shown: str = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._raise()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for name in (self.beat, self.about):
            with suppress(OSError):
                self.folder.unlink(name)

    def say(self, said: Mapping[str, Any]) -> None:
        """What the worker is at, for the status; written with the next beat."""
        self.said = said

    def _run(self) -> None:
        period = self.stale / BEATS
        due = time.monotonic() + period
        while not self._over.wait(min(1.0, period)):
            if time.monotonic() >= due:
                self._raise()
                due += period
            if self.watch is not None:
                self.watch()

    def _raise(self) -> None:
        self.counter += 1
        text = f"{self.counter:020d} {self.stale:020.3f} {_process()}"
        with suppress(OSError):
            # Opened anew each time: that is when a network disk brings it to the others.
            self.folder.overwrite(self.beat, text.encode())
        shown = json.dumps(dict(self.said), ensure_ascii=False)
        if shown != self._shown:
            with suppress(OSError):
                self.folder.write(self.about, shown.encode(errors="replace"))
                self._shown = shown


@dataclass
class Observer:
    """Watches other workers' counters.

    Attributes:
        folder: Where their files are.
        stale: Seconds for which a counter stands still before its worker is taken for dead.
        now: A clock that only goes forward.
    """

    folder: Inside
    stale: float = STALE
    now: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def dead(self, worker: str, *, lease: str = "") -> bool:
        """Whether a worker is dead, as far as was seen from here. The first look at it only starts the clock.

        Args:
            worker: Its name; empty where a lease says none.
            lease: Which lease that is.
        """
        text = read_beat(self.folder, worker)
        now, key = self.now(), worker or f"{lease}."
        counter, since = self._seen.get(key, (b"", now))
        if key not in self._seen or counter != text:
            since = now
            self._seen[key] = (text, now)
        return gone(text) or now - since >= max(self.stale, _own_stale(text))

    def forget(self, worker: str) -> None:
        """Remove the files of a dead worker."""
        self._seen.pop(worker, None)
        for suffix in (BEAT, ".json"):
            with suppress(OSError, ValueError):
                self.folder.unlink(f"{worker}{suffix}")


def read_beat(folder: Inside, worker: str) -> bytes:
    """A worker's counter; empty if there is none."""
    try:
        return folder.read(f"{worker}{BEAT}", limit=_LIMIT) if is_worker(worker) else b""
    except OSError:
        return b""


def with_beats(folder: Inside, *, passed: PassedOver | None = None) -> Iterator[str]:
    """Names of the workers that have a counter.

    Args:
        folder: Where workers' files are.
        passed: Counts what ends like one and has no worker's name.
    """
    for name in folder.names():
        worker = name.removesuffix(BEAT)
        if worker != name and is_worker(worker):
            yield worker
        elif passed is not None and not name.startswith(".") and not is_worker(name.removesuffix(".json")):
            passed.add(f"workers/{name}")


def _own_stale(text: bytes) -> float:
    """The time that a worker itself says: one with rare beats is not to be judged by one with frequent ones."""
    try:
        said = float(text.split()[1])
    except (IndexError, ValueError):
        return 0.0
    return min(said, LONGEST) if math.isfinite(said) else 0.0


def _process(pid: int | None = None) -> str:
    """This process (or another) as no other process has it, on a machine that says so: boot, namespace, pid, start."""
    pid = os.getpid() if pid is None else pid
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        # The name in brackets may hold anything; the start time is the twentieth field behind it.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state = "Z" if stat[0] in "ZX" else "-"
        return f"{boot} {space} {platform.node()} {pid} {stat[19]} {state}"
    except (OSError, IndexError):
        return "? ? ? ? ? ?"


def gone(text: bytes) -> bool:
    """Whether the process that wrote this was on this machine and is there no more."""
    parts = text.decode(errors="replace").split()
    if len(parts) != 8 or parts[2] == "?":
        return False
    boot, space, node, pid, start, _ = parts[2:]
    here = _process().split()
    if [boot, space, node] != here[:3] or not pid.isdigit():
        return False
    try:
        there = _process(int(pid)).split()
    except ValueError:
        return False
    return there[4] != start or there[5] == "Z"
