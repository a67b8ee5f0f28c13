"""Workers in threads that move only when they are told to, on a clock of their own.

The code of workers, leases, counters and folders is the real one. A worker stands still at every look into the folder
(or only where it would sleep or compute), so that every order of events can be played.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.rendering.studio import FakeRenderer
from videoaccel.common.stages import Listener
from videoaccel.jobs.generate import Clip
from videoaccel.rendering import worker as worker_module
from videoaccel.rendering.control import Control
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import Heartbeat
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.plan import Plan, Planned, Unit
from videoaccel.rendering.worker import Worker


class KilledError(BaseException):
    """What a killed process does from here on: nothing, not even its last words."""


@dataclass
class Clock:
    """Seconds; they pass when somebody says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class ByHand(Heartbeat):
    """A heart that beats when it is told to."""

    def __enter__(self) -> ByHand:
        self.raise_()
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.beat, self.about):
            self.folder.unlink(name)

    def raise_(self) -> None:
        """One beat."""
        self._raise()


class Puppet(threading.Thread):
    """A worker that moves when it is told to.

    Args:
        act: What it does.
        every_look: Stand still before everything that is done in a folder.
    """

    def __init__(self, act: Callable[[], Any], *, every_look: bool) -> None:
        super().__init__(daemon=True)
        self.act, self.every_look = act, every_look
        self.killed = self.over = False
        self.wakes = 0.0  # when it has slept enough
        self.error: BaseException | None = None
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._stands.acquire()

    def run(self) -> None:
        self._stands.release()
        self._go.acquire()
        try:
            if not self.killed:
                self.act()
        except KilledError:
            pass
        except BaseException as error:
            self.error = error
        self.over = True
        self._stands.release()

    def move(self) -> None:
        """Go on to the next place where it stands still."""
        if not self.over:
            self._go.release()
            self._stands.acquire()

    def stand(self, wakes: float = 0.0) -> None:
        """Called by the worker itself: stand still here."""
        if self.killed:
            raise KilledError
        self.wakes = wakes
        self._stands.release()
        self._go.acquire()
        if self.killed:
            raise KilledError

    def kill(self) -> None:
        """It does nothing any more."""
        self.killed = True
        while not self.over:
            self.move()


def stand(wakes: float = 0.0) -> None:
    """Stand still, if a puppet calls this."""
    now = threading.current_thread()
    if isinstance(now, Puppet):
        now.stand(wakes)


@contextmanager
def theatre(clock: Clock) -> Iterator[None]:
    """Workers sleep by this clock, and stand still before all that they do in folders."""
    plain = Inside._opened

    def opened(self: Inside) -> Any:
        now = threading.current_thread()
        if isinstance(now, Puppet) and now.every_look:
            now.stand()
        return plain(self)

    def sleep(seconds: float) -> None:
        stand(clock() + seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inside, "_opened", opened)
        patch.setattr(worker_module, "time", SimpleNamespace(monotonic=clock, sleep=sleep))
        yield


@dataclass
class Player:
    """One worker of a play.

    Attributes:
        worker: The real one.
        puppet: Its thread.
        stopped: Its process stands still: it does not beat.
    """

    worker: Worker
    puppet: Puppet
    stopped: bool = False


@dataclass
class Play:
    """A folder, a plan and the workers at it.

    Attributes:
        plan: What is asked for.
        root: The folder.
        clock: Of all of them.
        rules: How patient they are.
        seconds: How long a clip takes.
        every_look: Whether workers stand still before everything that they do in the folder.
        raised: (worker, unit) for every error of making.
    """

    plan: Plan
    root: Path
    clock: Clock
    rules: Rules
    seconds: Callable[[Unit], float] = lambda unit: 3.0
    every_look: bool = True
    players: dict[str, Player] = field(default_factory=dict)
    raised: list[tuple[str, str, Exception]] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    begun: int = 0

    def __post_init__(self) -> None:
        self.folder = RenderFolder(self.root)
        self.folder.prepare()

    def begin(self) -> Player:
        """Another worker starts."""
        self.begun += 1
        name = f"w{self.begun}"
        control = Control(self.folder.cancelled, now=self.clock)
        worker = Worker(self.plan, self.folder, _Maker(self, name), name=name, rules=self.rules, control=control)
        worker.observer.now = self.clock
        worker.heart = ByHand(self.folder.workers, name, stale=self.rules.stale)
        self.players[name] = Player(worker, Puppet(worker.run, every_look=self.every_look))
        return self.players[name]

    def beat(self, player: Player) -> None:
        """A worker that lives raises its counter."""
        if not player.puppet.over and not player.stopped and self.folder.workers.exists(player.worker.heart.beat):
            assert isinstance(player.worker.heart, ByHand)
            player.worker.heart.raise_()

    def at_work(self) -> list[Player]:
        """Those that have not ended."""
        return [player for player in self.players.values() if not player.puppet.over]

    def close(self) -> None:
        """No thread stays."""
        for player in self.players.values():
            player.puppet.kill()


class _Maker(FakeRenderer):
    """Takes its time by the play's clock; fails where the play says so, and says that it did."""

    def __init__(self, play: Play, worker: str) -> None:
        super().__init__()
        self.play, self.worker = play, worker

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> list[tuple[Planned, Clip]]:
        pause = self.play.seconds(unit) / 4  # before the first of three steps, and in each

        def heard(stage: str, done: int, total: int) -> None:
            listener(stage, done, total)
            if done < total:
                stand(self.play.clock() + pause)

        listener("denoise", 0, 3)
        stand(self.play.clock() + pause)
        if (error := self.play.failing.pop(self.worker, None)) is not None:
            self.play.raised.append((self.worker, unit.id, error))
            raise error
        return super().make(unit, into, listener=heard)
