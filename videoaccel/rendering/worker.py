"""One worker: takes jobs until none is left, whatever happens to it, its disk, its memory and the other workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.parallel.comm import RankError
from videoaccel.rendering.control import CancelledError, Control, StoppedError, TimedOutError
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import Heartbeat, Observer
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.leases import Lease, Leases, Tries
from videoaccel.rendering.manifest import Manifest
from videoaccel.rendering.outcome import Outcome, Rules, take_stock
from videoaccel.rendering.plan import Plan, Planned, Unit
from videoaccel.rendering.relief import Relief
from videoaccel.rendering.renderer import Renderer
from videoaccel.rendering.room import Room, is_full

INTERRUPTED, HUNG = 130, 75
"""Exit codes of a worker that had to be ended in the middle: told to stop, or hanging."""

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told of (event, what it is about), see `videoaccel.rendering.manifest.EVENTS`."""


_LOOK = 1.0  # seconds between looks whether a lease is still this worker's


class LostError(Exception):
    """Another has taken this job, since this worker seemed dead; nothing that it could say of it would be true."""


class ToldError(Exception):
    """Whoever is told of events failed; that is no job's fault."""


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
        self._listener = tell
        self.leases, self.manifest = Leases(folder.leases, name), Manifest(folder.manifest, name)
        self.observer = Observer(folder.workers, rules.stale)
        self.relief = Relief(folder, self.leases, self.observer, self._taken)
        self.heart = Heartbeat(folder.workers, name, stale=rules.stale, watch=self._watch)
        self.outcome = Outcome()
        self._todo: list[Unit] = []
        self._units = {unit.id: unit for unit in plan.units}
        self._at: tuple[Unit, Lease] | None = None
        self._idle = 0.0  # seconds of the last wait for others; longer each time, lest they do nothing but look
        self._into: dict[str, Inside] = {}  # the folders in which the job at hand is made
        self.room = Room(folder, name, rules.pause, control, self._disk)

    def run(self) -> Outcome:
        """Work until nothing is left, or until told to stop.

        Raises:
            OSError: The folder cannot be used any more, for another reason than a full disk.
            ToldError: ``tell`` raised; the job at hand was given back.
            KeyboardInterrupt: Ctrl-C; likewise.
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
                finished = self.folder.finished() if self.manifest.begun() else finished
                self.relief.tidy(self.plan.units, finished)
                stock = take_stock(self.plan, self.folder, self.rules, self.control, finished=finished)
                stock.made, stock.interrupted = self.outcome.made, self.outcome.interrupted
                stock.seconds = time.monotonic() - began
                self.outcome = stock
                if self.manifest.begun():
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
        fresh = [unit for unit in self._todo if unit.id not in looked]
        again = sorted((unit for unit in self._todo if unit.id in looked), key=lambda u: len(looked[u.id].failed))
        free = [unit for unit in again if looked[unit.id].held is None]
        for unit in [*fresh, *free]:
            tries = looked.get(unit.id)
            if self._settled(unit, tries):  # others have done much meanwhile: no new look for each
                self._todo.remove(unit)
                continue
            lease = self.room.patiently(lambda unit=unit, tries=tries: self.leases.claim(unit.id, tries))  # type: ignore[misc]
            self._idle = 0.0
            if lease is not None:
                self._hold(unit, lease)
            return True  # taken by us, or under our nose: look again
        return self._watched([unit for unit in again if looked[unit.id].held is not None], looked)

    def _watched(self, held: Sequence[Unit], looked: Mapping[str, Tries]) -> bool:
        """Others are at all that is left: wait for them, and take over from the dead; False if it is not waited for."""
        freed = False
        for unit in self.relief.watched(held):
            if self._settled(unit, looked[unit.id]):
                self._todo.remove(unit)
                freed = True
            else:
                freed = self.relief.took(unit.id, looked[unit.id].held or 0) or freed
        if held and not freed:
            if not self.rules.wait:
                return False
            self._idle = min(self.rules.stale / 10, 2 * self._idle or 0.5)
            time.sleep(self._idle)
        else:
            self._idle = 0.0
        return True

    def _settled(self, unit: Unit, tries: Tries | None) -> bool:
        """Whether nothing is to be done about a unit: it is finished, cancelled, or was given up."""
        if all(self.folder.has(job.folder) for job in unit.jobs):
            if tries is not None:  # whoever had it died before it could put the lease away, or is late
                self.leases.forget(unit.id, done=True)
            return True
        if any(self.control.is_cancelled(job.id) for job in unit.jobs):
            return True
        held = tries is not None and tries.held is not None
        return tries is not None and not held and self.rules.given_up(tries)

    def _taken(self, lease: Lease) -> None:
        if (unit := self._units.get(lease.job)) is not None:
            self._event("taken", unit, dead=lease.worker)

    # One unit

    def _hold(self, unit: Unit, lease: Lease) -> None:
        if all(self.folder.has(job.folder) for job in unit.jobs):  # finished between the look and the claim
            self.leases.forget(unit.id, done=True)
            self._todo.remove(unit)
            return
        self._at = (unit, lease)
        try:
            self._event("claimed", unit, number=lease.number)
            with self.control.job(tuple(job.id for job in unit.jobs)):
                self._try(unit, lease)
        except LostError:
            self.leases.release(lease)  # should it still be ours, only what was made was taken away
            self._event("lost", unit)
        except CancelledError:
            self._event("cancelled", unit)
            self.leases.forget(unit.id)
        except (StoppedError, ToldError, KeyboardInterrupt, SystemExit) as error:
            event = "released" if self.leases.release(lease) else "lost"
            if not isinstance(error, ToldError):
                self._event(event, unit)
            raise
        finally:
            self._at, self._into = None, {}
            self.folder.sweep(self.name)
            self.heart.say({})

    def _try(self, unit: Unit, lease: Lease) -> None:
        eased: list[dict[str, str]] = []
        while True:
            try:
                self._make(unit, lease, eased)
                return
            except (StoppedError, CancelledError, LostError, ToldError):
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
        began = looked = time.monotonic()
        missing = [job for job in unit.jobs if not self.folder.has(job.folder)]
        self.room.check()
        into = {job.id: self.folder.stage(self.name) for job in missing}
        self._into = dict(into)

        def listen(stage: str, done: int, total: int) -> None:
            nonlocal looked
            self.heart.say(_about(unit) | {"stage": stage, "done": done, "total": total})
            self.tell("step", _about(unit) | {"stage": stage, "done": done, "total": total})
            self.control.check(stage, done, total)
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                if not self.leases.holds(lease):
                    raise LostError

        paths = {job: place.path for job, place in into.items()}
        for job, clip in self.renderer.make(unit, paths, listener=listen):
            record = {**clip.record, "job": self._job_record(unit, job, lease, eased)}
            into[job.id].write(f"{job.job.name}.json", _json(record).encode(errors="replace"))
            size = into[job.id].size()
            new = self.folder.commit(self._into.pop(job.id), job.folder)
            took = round(time.monotonic() - began, 3)
            self.room.clip = max(self.room.clip, size)
            self.outcome.made += new
            self._event("done" if new else "there", unit, one=job, seconds=took, bytes=size)
        self.leases.forget(unit.id, done=True)
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
        before = len(self.room.patiently(self.leases.look).get(unit.id, Tries()).failed)
        times = max(1, self.rules.tries - before) if hopeless else 1
        about = {"error": said, "worker": self.name}
        # Who thought that this worker was dead has thrown away what it was making, and that is what went wrong.
        swept = any(not place.path.is_dir() for place in self._into.values())
        if swept or not self.room.patiently(lambda: self.leases.fail(lease, about, times=times)):
            raise LostError
        count = before + times
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
            self._last_words("released" if self.leases.release(at[1]) else "lost", at[0])
            os._exit(INTERRUPTED)
        if self.control.late(margin):
            said = f"it hung: no step was done for long after its {self.control.timeout:g} s"
            if self.leases.fail(at[1], {"error": said, "worker": self.name}):
                self._last_words("failed", at[0], error=said, number=at[1].number)
            else:
                self._last_words("lost", at[0])
            os._exit(HUNG)

    def _last_words(self, event: str, unit: Unit, **fields: Any) -> None:
        try:
            self.manifest.add(event, **_about(unit), **fields)
        finally:
            self.folder.sweep(self.name)
            self.observer.forget(self.name)

    # Keeping others informed

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        """Tell whoever wants to know.

        Raises:
            ToldError: They failed.
        """
        if self._listener is not None:
            try:
                self._listener(event, about)
            except (StoppedError, CancelledError):
                raise
            except Exception as error:
                raise ToldError(_sentence(error)) from error

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
