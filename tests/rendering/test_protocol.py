"""Every order of stop, takeover, wake, finish, failure, cancelling and death, played with the real code and a clock."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.rendering.puppets import Clock, Play, Player, theatre
from tests.rendering.studio import Studio, contents
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.manifest import read_manifests
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.plan import Plan
from videoaccel.rendering.run import cancel
from videoaccel.rendering.state import CANCELLED, DONE, FAILED, read_status

MEMORY = Path("/dev/shm")
"""Where there is one: a disk is told after every file to write it, thousands of times."""

RULES = Rules(stale=10.0, tries=2, deaths=50)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Plan:
    return Studio(tmp_path_factory.mktemp("plan"), pipeline_folder).many(3).plan


class Protocol(RuleBasedStateMachine):
    """Up to three workers at three jobs."""

    plan: Plan
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.clock = Clock()
        self.stack.enter_context(theatre(self.clock))
        self.play = Play(self.plan, self.root / "out", self.clock, RULES)
        self.wrong: list[str] = []
        self.unwanted: set[str] = set()
        self.unlink = Inside.unlink
        machine = self

        def unlink(place: Inside, name: str) -> None:
            machine.watch(place, name)
            machine.unlink(place, name)

        Inside.unlink = unlink  # type: ignore[method-assign]

    def watch(self, place: Inside, name: str) -> None:
        """A lease is removed: its own worker does so, or the job is done."""
        if place.parts[-1] == "leases" and name.endswith(".lease"):
            path, who = place / name, self.puppet_name()
            held = json.loads(path.read_text() or "{}").get("worker") if path.exists() else None
            done = any(job.id == name.split(".")[0] and self.play.folder.has(job.folder) for job in self.plan.jobs)
            if held not in (None, who) and not done:
                self.wrong.append(f"{who} removed {name} of {held}")

    def puppet_name(self) -> str:
        import threading

        now = threading.current_thread()
        return next(name for name, player in self.play.players.items() if player.puppet is now)

    def teardown(self) -> None:
        try:
            self.to_the_end()
            self.seen.update(row["event"] for row in read_manifests(self.play.folder.manifest))
        finally:
            self.play.close()
            Inside.unlink = self.unlink  # type: ignore[method-assign]
            self.stack.close()
            shutil.rmtree(self.root)

    # What happens

    def pick(self, number: int, players: list[Player]) -> Player:
        return players[number % len(players)]

    def movable(self) -> list[Player]:
        return [player for player in self.play.at_work() if not player.stopped]

    @initialize()
    def two(self) -> None:
        self.play.begin()
        self.play.begin()

    @precondition(lambda self: len(self.play.at_work()) < 3 and self.play.begun < 8)
    @rule()
    def begin(self) -> None:
        self.play.begin()

    @precondition(lambda self: self.movable())
    @rule(number=st.integers(0, 2), moves=st.integers(1, 80))
    def move(self, number: int, moves: int) -> None:
        player = self.pick(number, self.movable())
        for _ in range(moves):
            player.puppet.move()

    @precondition(lambda self: self.movable())
    @rule(number=st.integers(0, 2))
    def stop(self, number: int) -> None:
        self.pick(number, self.movable()).stopped = True

    @precondition(lambda self: any(player.stopped for player in self.play.at_work()))
    @rule(number=st.integers(0, 2))
    def wake(self, number: int) -> None:
        self.pick(number, [player for player in self.play.at_work() if player.stopped]).stopped = False

    @precondition(lambda self: self.play.at_work())
    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        self.pick(number, self.play.at_work()).puppet.kill()

    @precondition(lambda self: self.movable())
    @rule(number=st.integers(0, 2), error=st.sampled_from([RuntimeError("broken"), ValueError("wrong input")]))
    def fail(self, number: int, error: Exception) -> None:
        self.play.failing[self.pick(number, self.movable()).worker.name] = error

    @precondition(lambda self: len(self.unwanted) < 2)
    @rule(number=st.integers(0, 2), moves=st.integers(0, 60))
    def cancel(self, number: int, moves: int) -> None:
        """Somebody takes a job out, be it open, claimed, about to be finished, failed or done."""
        for _ in range(moves):
            for player in self.movable():
                player.puppet.move()
        held = [player.worker._at[0].id for player in self.play.at_work() if player.worker._at is not None]
        job = held[number % len(held)] if held else self.plan.jobs[number].id
        self.unwanted.add(job)
        cancel(self.play.folder, [job])
        self.wait(2.0, False)

    def moved(self, players: list[Player], times: int, *, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(times):
            for player in players:
                player.puppet.move()
            if until():
                return

    def events(self, name: str) -> list[Any]:
        return [row for row in read_manifests(self.play.folder.manifest) if row["event"] == name]

    @precondition(lambda self: len(self.movable()) > 1)
    @rule(number=st.integers(0, 2), before=st.integers(1, 60), after=st.integers(1, 90), wakes=st.booleans())
    def overtake(self, number: int, before: int, after: int, wakes: bool) -> None:
        """One stops anywhere at a job for longer than the others wait; they take it over, and it may wake anywhere."""
        player = self.pick(number, self.movable())
        others = [other for other in self.movable() if other is not player]
        for _ in range(300):
            if player.worker._at is not None:
                break
            player.puppet.move()
        for _ in range(before):
            player.puppet.move()
        player.stopped = True
        seen = lambda: any(player.worker.name in other.worker.observer._seen for other in others)  # noqa: E731
        self.moved(others, 400, until=seen)
        self.wait(11.0, False)
        taken = len(self.events("taken"))
        self.moved(others, 200, until=lambda: len(self.events("taken")) > taken)
        self.moved(others, after)
        player.stopped = not wakes
        for _ in range(after if wakes else 0):
            player.puppet.move()

    @rule(seconds=st.sampled_from([1.0, 2.0, 5.0, 11.0]), lost=st.booleans())
    def wait(self, seconds: float, lost: bool) -> None:
        """Time passes; those that do not stand still beat in it, unless what they write is late."""
        for _ in range(max(1, int(seconds / 2))):
            self.clock.now += min(2.0, seconds)
            for player in [] if lost else self.play.at_work():
                self.play.beat(player)

    # What has to be so, always

    @invariant()
    def nobody_removes_anothers_lease(self) -> None:
        assert self.wrong == []

    @invariant()
    def nobody_broke_down(self) -> None:
        for player in self.play.players.values():
            assert player.puppet.error is None, player.puppet.error

    @invariant()
    def what_is_said_is_true(self) -> None:
        rows = list(read_manifests(self.play.folder.manifest))
        done = Counter(row["job"] for row in rows if row["event"] == "done")
        assert all(count == 1 for count in done.values()), "a clip is finished once"
        truly = {(worker, job) for worker, job, _ in self.play.raised}
        for row in rows:
            if row["event"] in ("failed", "gave_up"):
                assert (row["worker"], row["job"]) in truly, f"{row} did not fail"
            assert row["event"] != "cancelled" or row["job"] in self.unwanted
        for name in self.play.folder.leases.names():
            job, _, kind = name.split(".", 2)
            if kind == "failed":
                assert any(raised == job for _, raised, _ in self.play.raised), f"{name} did not fail"

    @invariant()
    def clips_are_whole(self) -> None:
        finished = self.play.folder.finished()
        for job in self.plan.jobs:
            if job.id in finished:
                assert (finished[job.id] / job.job.file).read_bytes() == contents(job)
        done = {
            row["job"]: row["worker"] for row in read_manifests(self.play.folder.manifest) if row["event"] == "done"
        }
        for job_id, worker in done.items():
            record = json.loads(next(finished[job_id].glob("*.json")).read_text())
            assert record["job"]["worker"] == worker, "who says that it made a clip made it"

    def to_the_end(self) -> None:
        """All that still live wake, one more comes, and in the end no job is lost."""
        for player in self.play.at_work():
            player.stopped = False
        self.play.begin()
        for _ in range(4000):
            if not self.play.at_work():
                break
            self.clock.now += 0.05
            for player in self.play.at_work():
                self.play.beat(player)
                for _ in range(5):
                    player.puppet.move()
        assert not self.play.at_work(), "workers come to an end"
        self.nobody_removes_anothers_lease()
        self.nobody_broke_down()
        self.what_is_said_is_true()
        self.clips_are_whole()
        status, finished = read_status(self.play.folder), self.play.folder.finished()
        looked = self.play.players[f"w{self.play.begun}"].worker.outcome
        for job in self.plan.jobs:
            failures = [error for _, unit, error in self.play.raised if unit == job.id]
            given_up = job.id in looked.gave_up
            assert job.id in finished or given_up or job.id in self.unwanted, f"{job.id} is lost"
            assert job.id not in looked.cancelled or job.id in self.unwanted - finished.keys()
            hopeless = any(isinstance(error, ValueError) for error in failures)
            assert not (given_up and job.id not in finished) or hopeless or len(failures) >= RULES.tries
        assert all(job.state in (DONE, FAILED, CANCELLED) for job in status.jobs)


def check(plan: Plan, *, examples: int, steps: int) -> None:
    seen: Counter[str] = Counter()
    Machine: Any = type("Machine", (Protocol,), {"plan": plan, "seen": seen})
    found = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Machine, settings=found)
    events = ("taken", "lost", "failed", "gave_up", "cancelled", "done")
    assert min(seen[event] for event in events) >= max(1, examples // 25), seen


def test_any_order_of_stop_takeover_wake_finish_and_kill(plan: Plan) -> None:
    check(plan, examples=15, steps=12)


@pytest.mark.slow
def test_any_order_at_length(plan: Plan) -> None:
    check(plan, examples=200, steps=25)
