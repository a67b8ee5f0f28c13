"""One worker: takes jobs until none is left, whatever happens to it, its disk, its memory and the other workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videoaccel.common.files import atomic_write_text
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.parallel.comm import RankError
from videoaccel.rendering.control import CancelledError, Control, StoppedError, TimedOutError
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import Heartbeat, Observer
from videoaccel.rendering.leases import Lease, Leases, Tries
from videoaccel.rendering.manifest import Manifest
from videoaccel.rendering.outcome import Outcome, Rules, take_stock
from videoaccel.rendering.plan import Plan, Planned, Unit
from videoaccel.rendering.renderer import Renderer
from videoaccel.rendering.room import Room, is_full

INTERRUPTED, HUNG = 130, 75
"""Exit codes of a worker that had to be ended in the middle: told to stop, or hanging."""

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told of (event, what it is about), see `videoaccel.rendering.manifest.EVENTS`."""


class Worker:
    """Takes units of a plan in a folder and has a renderer make them.

    Args:
        plan: What is asked for.
        folder: Prepared.
        renderer: Makes clips.
        name: Of the worker; no other has it.
        rules: How patient it is.
        control: Asked at every step whether to go on.
        tell: Told of every event, for progress.
        before: Called with the open units before the first is taken: text is encoded then.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RenderFolder,
        renderer: Renderer,
        *,
        name: str,
        rules: Rules,
        control: Control,
        tell: Tell | None = None,
        before: Callable[[Worker, Sequence[Unit]], None] | None = None,
    ) -> None:
        self.plan, self.folder, self.renderer, self.name, self.rules = plan, folder, renderer, name, rules
        self.control, self.before = control, before
        self.tell: Tell = tell or (lambda event, about: None)
        self.leases, self.manifest = Leases(folder.leases, name), Manifest(folder.manifest, name)
        self.observer = Observer(folder.workers, rules.stale)
        self.heart = Heartbeat(folder.workers, name, stale=rules.stale, watch=self._watch)
        self.outcome = Outcome()
        self._todo: list[Unit] = []
        self._at: tuple[Unit, Lease] | None = None
        self.room = Room(folder, name, rules.pause, control, self._disk)

    def run(self) -> Outcome:
        """Work until nothing is left, or until told to stop.

        Raises:
            OSError: The folder cannot be used any more, for another reason than a full disk.
            KeyboardInterrupt: Ctrl-C; the job at hand was given back.
        """
        began = time.monotonic()
        finished: Mapping[str, Path] = {}
        with self.heart:
            try:
                finished = self.folder.finished()
                self._todo = self._open(finished)
                if self._todo:
                    self._event("started")
                    if self.before is not None:
                        self.before(self, self._todo)
                while self._todo:
                    self.control.check()
                    if not self._next():
                        break
            except (StoppedError, KeyboardInterrupt) as error:
                self.outcome.interrupted = True
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                self.folder.sweep(self.name)
                finished = self.folder.finished() if self.manifest.path.exists() else finished
                self._tidy(finished)
                stock = take_stock(self.plan, self.folder, self.rules, self.control, finished=finished)
                stock.made, stock.interrupted = self.outcome.made, self.outcome.interrupted
                stock.seconds = time.monotonic() - began
                self.outcome = stock
                if self.manifest.path.exists():
                    self._event("ended", interrupted=self.outcome.interrupted)
        return self.outcome

    # What to do next

    def _open(self, finished: Mapping[str, Path]) -> list[Unit]:
        """Units that are not finished, from a place on that differs between workers: each begins with its own share."""
        units = [unit for unit in self.plan.units if any(job.id not in finished for job in unit.jobs)]
        start = sum(self.name.encode()) * 7919 % len(units) if units else 0
        return units[start:] + units[:start]

    def _next(self) -> bool:
        """Do one unit, or wait for others; False if nothing is left for this worker."""
        looked = self.room.patiently(self.leases.look)
        fresh = (unit for unit in self._todo if unit.id not in looked)
        again = sorted((unit for unit in self._todo if unit.id in looked), key=lambda u: len(looked[u.id].failed))
        held = False
        for unit in [*self._first(fresh), *again]:
            tries = looked.get(unit.id)
            if self._settled(unit, tries):
                self._todo.remove(unit)
                return True
            if tries is not None and tries.held is not None:
                held = not self._took(unit, tries) or held
                continue
            lease = self.room.patiently(lambda unit=unit, tries=tries: self.leases.claim(unit.id, tries))  # type: ignore[misc]
            if lease is not None:
                self._hold(unit, lease)
            return True  # taken by us, or under our nose: look again
        if held and not self.rules.wait:
            return False
        if held:
            time.sleep(min(0.5, self.rules.stale / 10))
        return True

    @staticmethod
    def _first(units: Iterator[Unit]) -> list[Unit]:
        one = next(units, None)
        return [] if one is None else [one]

    def _settled(self, unit: Unit, tries: Tries | None) -> bool:
        """Whether nothing is to be done about a unit: it is finished, cancelled, or was given up."""
        if all(self.folder.has(job.folder) for job in unit.jobs):
            if tries is not None:  # whoever had it died before it could put the lease away
                self.leases.forget(unit.id)
            return True
        if any(self.control.is_cancelled(job.id) for job in unit.jobs):
            return True
        held = tries is not None and tries.held is not None
        return tries is not None and not held and self.rules.given_up(tries)

    def _took(self, unit: Unit, tries: Tries) -> bool:
        """Take a unit from a dead worker, so that it can be claimed."""
        assert tries.held is not None
        lease = self.leases.holder(unit.id, tries.held)
        if lease is None:
            return True  # it has just been finished or given back
        if lease.worker == self.name or not self.observer.dead(lease.worker):
            return False
        if self.leases.take(lease):
            self._event("taken", unit, dead=lease.worker)
            self.folder.sweep(lease.worker)
            self.observer.forget(lease.worker)
        return True

    def _tidy(self, finished: Mapping[str, Path]) -> None:
        """Put away what workers have left that died when there was nothing more to take over from them."""
        looked = self.leases.look()
        for unit in self.plan.units if looked else ():
            if unit.id in looked and all(job.id in finished for job in unit.jobs):
                self.leases.forget(unit.id)
        for worker in {*self.folder.left_behind(), *(path.stem for path in self.folder.workers.glob("*.beat"))}:
            if worker != self.name and self.observer.dead(worker):
                self.folder.sweep(worker)
                self.observer.forget(worker)
        if {path.stem for path in self.folder.workers.glob("*.beat")} <= {self.name}:
            self.folder.sweep_parts()

    # One unit

    def _hold(self, unit: Unit, lease: Lease) -> None:
        if all(self.folder.has(job.folder) for job in unit.jobs):  # finished between the look and the claim
            self.leases.forget(unit.id)
            self._todo.remove(unit)
            return
        self._at = (unit, lease)
        try:
            self._event("claimed", unit, number=lease.number)
            with self.control.job(tuple(job.id for job in unit.jobs)):
                self._try(unit, lease)
        except CancelledError:
            self._event("cancelled", unit)
            self.leases.forget(unit.id)
        except (StoppedError, KeyboardInterrupt, SystemExit):
            self.leases.release(lease)
            self._event("released", unit)
            raise
        finally:
            self._at = None
            self.folder.sweep(self.name)
            self.heart.say({})

    def _try(self, unit: Unit, lease: Lease) -> None:
        eased: list[dict[str, str]] = []
        while True:
            try:
                self._make(unit, lease, eased)
                return
            except (StoppedError, CancelledError):
                raise
            except RankError as error:  # nothing can be made any more, and this job may be why
                self._failed(unit, lease, error)
                raise
            except OutOfMemoryError as error:
                step = self.renderer.ease(unit, error)
                if step is None:
                    self._failed(unit, lease, error)
                    return
                eased.append({"step": step, "because": str(error)})
                self._event("memory", unit, step=step, because=str(error))
            except Exception as error:
                if not is_full(error):
                    self._failed(unit, lease, error)
                    return
                self.room.wait(str(error))
            self.folder.sweep(self.name)

    def _make(self, unit: Unit, lease: Lease, eased: Sequence[Mapping[str, str]]) -> None:
        began = time.monotonic()
        missing = [job for job in unit.jobs if not self.folder.has(job.folder)]
        self.room.check()
        into = {job.id: self.folder.stage(self.name) for job in missing}

        def listen(stage: str, done: int, total: int) -> None:
            self.heart.say(_about(unit) | {"stage": stage, "done": done, "total": total})
            self.tell("step", _about(unit) | {"stage": stage, "done": done, "total": total})
            self.control.check(stage, done, total)

        for job, clip in self.renderer.make(unit, into, listener=listen):
            record = {**clip.record, "job": self._job_record(unit, job, lease, eased)}
            atomic_write_text(into[job.id] / f"{job.job.name}.json", _json(record))
            size = _size(into[job.id])
            new = self.folder.commit(into[job.id], job.folder)
            took = round(time.monotonic() - began, 3)
            self.room.clip = max(self.room.clip, size)
            self.outcome.made += new
            self._event("done" if new else "there", unit, one=job, seconds=took, bytes=size)
        self.leases.forget(unit.id)
        self._todo.remove(unit)

    def _job_record(self, unit: Unit, job: Planned, lease: Lease, eased: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return {
            "id": job.id,
            "name": job.job.name,
            "worker": self.name,
            "try": lease.number,
            "group": job.group.key[:16],
            "batch": len(unit.jobs),
            "memory": {"steps": list(self.renderer.eased(unit)), "now": [dict(step) for step in eased]},
        }

    def _failed(self, unit: Unit, lease: Lease, error: Exception) -> None:
        """One try less. What is wrong with the input stays wrong: such a job is given up at once."""
        said = _sentence(error)
        hopeless = isinstance(error, (ValueError, FileNotFoundError)) and not isinstance(error, ArithmeticError)
        tries = self.room.patiently(self.leases.look).get(unit.id, Tries())
        numbers = range(lease.number, self.rules.tries + 1) if hopeless else [lease.number]
        for number in numbers or [lease.number]:
            again = Lease(lease.job, number, lease.worker)
            self.room.patiently(lambda again=again: self.leases.fail(again, {"error": said, "worker": self.name}))  # type: ignore[misc]
        count = self.rules.tries if hopeless else len(tries.failed) + 1
        self._event("failed", unit, error=said, number=lease.number)
        if count >= self.rules.tries:
            self._event("gave_up", unit, error=said)

    # Watching over the time

    def _watch(self) -> None:
        """In the heartbeat's thread: end a process that does not end by itself."""
        at = self._at
        margin = max(30.0, self.rules.stale / 2)
        if at is None:
            return
        if self.control.overdue(0):
            self.leases.release(at[1])
            self._last_words("released", at[0])
            os._exit(INTERRUPTED)
        if self.control.late(margin):
            said = f"it hung: no step was done for long after its {self.control.timeout:g} s"
            self.leases.fail(at[1], {"error": said, "worker": self.name})
            self._last_words("failed", at[0], error=said, number=at[1].number)
            os._exit(HUNG)

    def _last_words(self, event: str, unit: Unit, **fields: Any) -> None:
        try:
            self.manifest.add(event, **_about(unit), **fields)
        finally:
            self.folder.sweep(self.name)
            self.observer.forget(self.name)

    # Keeping others informed

    def _disk(self, event: str, about: Mapping[str, Any]) -> None:
        """A full disk takes no line in the manifest until there is room again."""
        if event == "paused":
            self.heart.say({"stage": "disk full", "done": 0, "total": 1})
            self.tell(event, about)
        else:
            self._event(event, **about)

    def _event(self, event: str, unit: Unit | None = None, *, one: Planned | None = None, **fields: Any) -> None:
        about = {} if unit is None else _about(unit, one)
        self.tell(event, about | fields)
        self.room.patiently(lambda: self.manifest.add(event, **about, **fields))


def _about(unit: Unit, one: Planned | None = None) -> dict[str, Any]:
    job = one or unit.jobs[0]
    about: dict[str, Any] = {"job": job.id, "name": job.job.name}
    return about if len(unit.jobs) == 1 or one is not None else about | {"batch": [job.id for job in unit.jobs]}


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    known = isinstance(error, (ValueError, OSError, ArithmeticError, MemoryError, TimedOutError))
    return text if known and text else f"{type(error).__name__}: {text}"


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
