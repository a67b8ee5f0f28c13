"""Several workers on one machine: a process each, started again when it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch

from videoaccel.rendering.control import Control
from videoaccel.rendering.follow import Follower
from videoaccel.rendering.outcome import Outcome, Rules
from videoaccel.rendering.run import Render, count_outcome, keep_plan
from videoaccel.rendering.worker import INTERRUPTED, Tell

_FINE = (0, 3)
_POLL = 0.3  # seconds
_DEATHS = 5  # of one worker in a row without a clip made by any: something else is wrong


@dataclass
class _Process:
    """One worker's place."""

    device: str | None
    running: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    at: int = 0
    code: int | None = None


@dataclass
class _Supervisor:
    render: Render
    arguments: Sequence[str]
    control: Control
    tell: Tell
    follower: Follower
    places: list[_Process]
    made: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self) -> bool:
        """Until all workers have ended; returns whether they were told to stop."""
        list(self.follower.new())
        for place in self.places:
            self._start(place)
        told = False
        while any(place.running is not None for place in self.places):
            time.sleep(_POLL)
            self._follow()
            if self.control.stopping and not told:
                told = True
                self.end(signal.SIGTERM)
            for place in self.places:
                self._look(place)
        self._follow()
        return told or any(place.code == INTERRUPTED for place in self.places)

    def end(self, number: signal.Signals) -> None:
        """Send all workers a signal."""
        for place in self.places:
            if place.running is not None:
                with suppress(ProcessLookupError):
                    place.running.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Wait for all workers, and end those that do not come to an end."""
        until = time.monotonic() + seconds
        for place in self.places:
            if place.running is not None:
                try:
                    place.running.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    place.running.kill()
                    place.running.wait()

    def _start(self, place: _Process) -> None:
        device = [] if place.device is None else ["--device", place.device]
        command = [sys.executable, "-m", "videoaccel", *self.arguments, *device]
        place.running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        place.at = self.made

    def _look(self, place: _Process) -> None:
        if place.running is None or (code := place.running.poll()) is None:
            return
        assert place.running.stderr is not None
        said = place.running.stderr.read().decode(errors="replace").strip().splitlines()
        place.running, place.code = None, code
        if code in _FINE or code == INTERRUPTED or self.control.stopping:
            return
        place.deaths = 1 if self.made > place.at else place.deaths + 1
        why = f"exit code {code}" if code >= 0 else f"signal {-code}"
        last = f": {said[-1]}" if said else ""
        if code == 2 or place.deaths >= _DEATHS:
            self.failures.append(f"a worker cannot go on ({why}{last})")
            return
        self.tell("restarted", {"why": f"{why}{last}"})
        self._start(place)

    def _follow(self) -> None:
        """Pass on what workers have written since the last look."""
        for row in self.follower.new():
            self.made += row["event"] == "done"
            self.tell(row["event"], row)


def supervise(
    render: Render, rules: Rules, *, arguments: Sequence[str], workers: int, device: str | None, tell: Tell
) -> Outcome:
    """Run several workers until nothing is left.

    Args:
        render: Checked; its folder is prepared.
        rules: As of the workers.
        arguments: Of ``videoaccel``, that make a process one worker.
        workers: How many.
        device: For all of them; None gives each the next GPU where there are any.
        tell: Told of every event that a worker writes down, and of ``restarted``.

    Raises:
        RuntimeError: No worker could go on; says why.
        KeyboardInterrupt: Ctrl-C; the workers were ended.
    """
    keep_plan(render)
    gpus = torch.cuda.device_count() if device is None else 0
    places = [_Process(f"cuda:{number % gpus}" if gpus else device) for number in range(workers)]
    control = Control(render.folder.cancelled)
    boss = _Supervisor(render, arguments, control, tell, Follower(render.folder.manifest), places)
    began = time.monotonic()
    with _terminated(control, rules.grace):
        try:
            stopped = boss.run()
        except BaseException:
            boss.end(signal.SIGTERM)
            boss.wait(rules.grace + 5)
            raise
    outcome = count_outcome(render, rules)
    outcome.made, outcome.interrupted, outcome.seconds = boss.made, stopped, time.monotonic() - began
    if outcome.left and boss.failures and not stopped:
        raise RuntimeError(boss.failures[0])
    return outcome


@contextmanager
def _terminated(control: Control, grace: float) -> Iterator[None]:
    """SIGTERM is passed on to the workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: control.stop(grace=grace))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
