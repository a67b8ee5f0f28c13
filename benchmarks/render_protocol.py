"""A thousand workers at one folder, on a clock of their own: throughput, and work that is done twice.

    python -m benchmarks.render_protocol

The code of workers, leases, counters and the folder is the real one, in threads that move one at a time; what takes
time (making a clip, waiting) passes on a simulated clock. Counters are written late or not at all, workers stand still
for longer than others wait for them, and are killed. Nothing here measures this machine but ``cpu_seconds``.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import keep
from tests.rendering.puppets import Clock, Play, Player, theatre
from tests.rendering.studio import Studio
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.rendering.heartbeat import BEATS
from videoaccel.rendering.manifest import read_manifests
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.plan import Plan, Unit

STALE = 60.0  # seconds


@dataclass(frozen=True)
class Faults:
    """What goes wrong, by chance.

    Attributes:
        lost: Share of beats that are not seen.
        late: Mean seconds by which the others are late.
        stalls_an_hour: Of a worker.
        stall: Mean seconds for which it stands still.
        deaths_an_hour: Of a worker; another is started half a minute later.
    """

    lost: float = 0.0
    late: float = 0.0
    stalls_an_hour: float = 0.0
    stall: float = 0.0
    deaths_an_hour: float = 0.0


SCENES = {
    "nothing goes wrong": Faults(),
    "beats lost and late": Faults(lost=0.3, late=5.0),
    "most beats lost": Faults(lost=0.7, late=10.0),
    "workers stand still and die": Faults(lost=0.1, late=2.0, stalls_an_hour=2.0, stall=120.0, deaths_an_hour=2.0),
}


class Simulation:
    """One play.

    Args:
        plan: What is asked for.
        root: A folder that is not there.
        workers: How many.
        clip: Median seconds of a clip; they differ by a third or so.
        faults: What goes wrong.
    """

    def __init__(self, plan: Plan, root: Path, *, workers: int, clip: float, faults: Faults) -> None:
        self.chance, self.faults, self.clock = random.Random(0), faults, Clock(0.0)
        self.play = Play(plan, root, self.clock, Rules(stale=STALE, deaths=100), seconds=self._took, every_look=False)
        self.workers, self.clip, self.spent = workers, clip, 0.0
        self._there: set[str] = set()
        self._has, self.play.folder.has = self.play.folder.has, self._has_kept  # type: ignore[method-assign]
        self._events: list[tuple[float, int, str, Player | None]] = []
        self._order = itertools.count()

    def run(self) -> float:
        """Seconds until the last worker has ended."""
        for _ in range(self.workers):
            self._at(self.chance.uniform(0, 5), "begin", None)
        last = 0.0
        while self._events:
            now, _, what, player = heapq.heappop(self._events)
            if player is not None and player.puppet.over:
                continue
            self.clock.now = max(self.clock.now, now)
            getattr(self, f"_{what}")(player)
            last = self.clock.now if what in ("move", "begin") else last
        self.play.close()
        return last

    def _has_kept(self, name: str) -> bool:
        """A clip that is there stays there, and is looked into once: thousands of machines would each do so."""
        if name not in self._there and self._has(name):
            self._there.add(name)
        return name in self._there

    def _took(self, unit: Unit) -> float:
        took = self.clip * random.Random(unit.id).lognormvariate(0, 0.3)
        self.spent += took
        return took

    def _at(self, when: float, what: str, player: Player | None) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, player))

    def _in(self, an_hour: float, what: str, player: Player) -> None:
        if an_hour:
            self._at(self.clock.now + self.chance.expovariate(an_hour / 3600), what, player)

    def _begin(self, _: None) -> None:
        player = self.play.begin()
        self._at(self.clock.now, "move", player)
        self._at(self.clock.now + STALE / BEATS, "beat", player)
        self._in(self.faults.stalls_an_hour, "stall", player)
        self._in(self.faults.deaths_an_hour, "die", player)

    def _move(self, player: Player) -> None:
        if player.stopped:
            return  # it goes on when it wakes
        player.puppet.move()
        if player.puppet.error is not None:
            raise player.puppet.error
        self._at(max(player.puppet.wakes, self.clock.now), "move", player)

    def _beat(self, player: Player) -> None:
        self._at(self.clock.now + STALE / BEATS, "beat", player)
        if self.chance.random() >= self.faults.lost:
            late = self.chance.expovariate(1 / self.faults.late) if self.faults.late else 0.0
            self._at(self.clock.now + late, "seen", player)

    def _seen(self, player: Player) -> None:
        self.play.beat(player)

    def _stall(self, player: Player) -> None:
        player.stopped = True
        self._at(self.clock.now + self.chance.expovariate(1 / self.faults.stall), "wake", player)

    def _wake(self, player: Player) -> None:
        player.stopped = False
        self._at(max(player.puppet.wakes, self.clock.now), "move", player)
        self._in(self.faults.stalls_an_hour, "stall", player)

    def _die(self, player: Player) -> None:
        player.puppet.kill()
        self._at(self.clock.now + 30, "begin", None)


def main() -> None:
    """Play all scenes and keep what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--clip", type=float, default=120.0, help="Median seconds of a clip.")
    parser.add_argument("--scene", choices=list(SCENES), help="One of them; kept in a file of its own.")
    options = parser.parse_args()
    threading.stack_size(512 << 10)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        root = Path(folder)
        tiny_pipeline().save_pretrained(root / "model")
        plan = Studio(root, root / "model").many(options.clips).plan
        result = {
            "workers": options.workers, "clips": options.clips, "clip_seconds_median": options.clip, "stale": STALE,
            "scenes": {name: scene(plan, root / f"{number}", options, faults)
                       for number, (name, faults) in enumerate(SCENES.items()) if options.scene in (None, name)},
        }  # fmt: skip
    keep("render_protocol" if options.scene is None else f"render_protocol_{options.workers}", result)


def scene(plan: Plan, root: Path, options: argparse.Namespace, faults: Faults) -> dict[str, object]:
    """One scene: what was made, in which time, and what was in vain."""
    cpu = time.process_time()
    one = Simulation(plan, root, workers=options.workers, clip=options.clip, faults=faults)
    with theatre(one.clock):
        seconds = one.run()
    folder = one.play.folder
    rows = list(read_manifests(folder.manifest))
    counts = Counter(row["event"] for row in rows)
    made = Counter(row["job"] for row in rows if row["event"] == "done")
    finished = folder.finished()
    useful = sum(options.clip * random.Random(unit.id).lognormvariate(0, 0.3) for unit in plan.units)
    assert len(finished) == len(plan.units) == len(made) and set(made.values()) == {1}, "every clip once"
    assert not counts["failed"] and not counts["gave_up"], "nothing failed"
    print(f"{root.name}: {time.process_time() - cpu:.0f} s", flush=True)
    return {
        "faults": asdict(faults),
        "hours": round(seconds / 3600, 3),
        "clips_an_hour": round(3600 * len(finished) / seconds, 1),
        "ideal_clips_an_hour": round(3600 * options.workers * len(finished) / useful, 1),
        "begun_in_vain_percent": round(100 * (one.spent / useful - 1), 2),
        "events": {name: counts[name] for name in ("claimed", "taken", "lost", "there", "done")},
        "workers_started": one.play.begun,
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


if __name__ == "__main__":
    main()
