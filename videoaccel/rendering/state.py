"""Where a render stands, read from its folder by anybody at any time; nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import gone, read_beat, with_beats
from videoaccel.rendering.inside import is_identity, is_worker
from videoaccel.rendering.leases import Leases, Tries
from videoaccel.rendering.manifest import read_manifests
from videoaccel.rendering.said import MIB, PassedOver, mapping, read_said, text, whole

_PLAN = 512 * MIB  # at most; a hundred thousand jobs take some 40

DONE, RUNNING, WAITING, FAILED, CANCELLED = "done", "running", "waiting", "failed", "cancelled"


@dataclass(frozen=True)
class JobState:
    """Where one job stands.

    Attributes:
        id: Its identity.
        name: For people.
        prompt: Its beginning.
        state: ``done``, ``running``, ``waiting``, ``failed`` (given up) or ``cancelled``.
        folder: Of its clip; None while there is none.
        tries: Tries that failed or whose worker died.
        error: What the last failed try said.
        worker: Who is at it.
    """

    id: str
    name: str
    prompt: str
    state: str
    folder: Path | None = None
    tries: int = 0
    error: str | None = None
    worker: str | None = None


@dataclass(frozen=True)
class Status:
    """Where a render stands.

    Attributes:
        jobs: All that the job files last asked for.
        workers: By name what each is at; empty if it does not say.
        per_hour: Clips an hour of the workers that are at work; None before the first.
        passed_over: Names, files and rows in the folder that are no render's, or damaged.
        first_passed: The first of them.
    """

    jobs: tuple[JobState, ...]
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_hour: float | None = None
    passed_over: int = 0
    first_passed: str | None = None

    def count(self, state: str) -> int:
        """Jobs in this state."""
        return sum(job.state == state for job in self.jobs)

    @property
    def open(self) -> int:
        """Jobs that are not settled."""
        return self.count(WAITING) + self.count(RUNNING)

    @property
    def seconds_left(self) -> float | None:
        """Until all is done, at the present rate."""
        return None if not self.per_hour or not self.workers else 3600 * self.open / self.per_hour

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "counts": {state: self.count(state) for state in (DONE, RUNNING, WAITING, FAILED, CANCELLED)},
            "clips_per_hour": self.per_hour,
            "seconds_left": self.seconds_left,
            "passed_over": self.passed_over,
            "workers": {name: dict(said) for name, said in self.workers.items()},
            "jobs": [{**vars(job), "folder": None if job.folder is None else str(job.folder)} for job in self.jobs],
        }


def read_status(folder: RenderFolder, *, tries: int = 3, deaths: int = 5) -> Status:
    """Look at a render.

    Args:
        folder: Its folder.
        tries: Failed tries after which its workers give a job up.
        deaths: Dead workers after which they do.

    Raises:
        ValueError: There is no render.
    """
    if not folder.is_one():
        raise ValueError(f"{folder.root} holds no render; videoaccel render makes one")
    finished, leases, passed = folder.finished(), Leases(folder.leases, ""), PassedOver()
    looked = leases.look(passed=passed)
    jobs = []
    for job in _planned(folder, passed):
        found = looked.get(job["unit"], Tries())
        error = leases.why(job["unit"]) if found.failed else None
        worker: str | None = None
        if job["id"] in finished:
            state, error = DONE, None
        elif folder.cancelled.exists(job["id"]):
            state = CANCELLED
        elif found.held is not None:
            state, holder = RUNNING, leases.holder(job["unit"], found.held, passed=passed)
            worker = None if holder is None else holder.worker
        elif len(found.failed) >= tries or len(found.dead) >= deaths:
            state, error = FAILED, error or f"its worker died {len(found.dead)} times"
        else:
            state = WAITING
        count, place = len(found.failed) + len(found.dead), finished.get(job["id"])
        jobs.append(JobState(job["id"], job["name"], job["prompt"], state, place, count, error, worker))
    workers = dict(_workers(folder, passed))
    per_hour = clips_per_hour(_of(folder, workers, passed))
    for name in folder.staging.names():
        if not is_worker(name):
            passed.add(f"staging/{name}")
    return Status(tuple(jobs), workers, per_hour, passed.count, passed.first)


def _planned(folder: RenderFolder, passed: PassedOver) -> Iterator[dict[str, str]]:
    """Every job of every plan once; what is no plan, or no job, is passed over."""
    seen: set[str] = set()
    for file in folder.plans.names():
        if file.startswith(".") or not file.endswith(".json"):
            continue
        rows = mapping(read_said(folder.plans, file, limit=_PLAN)).get("jobs")
        if not isinstance(rows, list):
            passed.add(f"plans/{file}")
            continue
        for row in map(mapping, rows):
            job = {name: text(row.get(name)) for name in ("id", "unit", "name", "prompt")}
            if None in job.values() or not is_identity(job["id"]) or not is_identity(job["unit"]):
                passed.add(f"plans/{file}")
            elif str(job["id"]) not in seen:
                seen.add(str(job["id"]))
                yield {name: str(value) for name, value in job.items()}


def _workers(folder: RenderFolder, passed: PassedOver) -> Iterator[tuple[str, dict[str, Any]]]:
    """Workers that have a counter, but for those of this machine whose process is gone."""
    for worker in with_beats(folder.workers, passed=passed):
        if not gone(read_beat(folder.workers, worker)):
            yield worker, _at(mapping(read_said(folder.workers, f"{worker}.json")))


def _at(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker says it is at, as far as it can be understood."""
    found: dict[str, Any] = {name: text(said.get(name), most=200) for name in ("job", "name", "stage")}
    found |= {name: whole(said.get(name)) for name in ("done", "total")}
    if isinstance(said.get("batch"), list):
        found["batch"] = [job for job in said["batch"] if is_identity(job)]
    return {name: value for name, value in found.items() if value is not None}


def _of(folder: RenderFolder, workers: Mapping[str, Any], passed: PassedOver) -> Iterator[dict[str, Any]]:
    """What the workers that are there have written down; where none is, all."""
    return (
        row
        for row in read_manifests(folder.manifest, passed=passed)
        if not workers or str(row.get("worker")) in workers
    )


def clips_per_hour(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Finished clips by the time in which any worker was at work; None if there are none.

    A worker's times are by its own clock: where clocks differ, spans that do not touch look like several.

    Args:
        rows: Of manifests.
    """
    times: dict[str, list[datetime]] = {}
    done = 0
    for row in rows:
        with suppress(ValueError, TypeError):
            times.setdefault(str(row.get("worker")), []).append(datetime.fromisoformat(str(row["time"])))
            done += row["event"] == "done"
    seconds = busy(sorted((min(some), max(some)) for some in times.values()))
    return 3600 * done / seconds if done and seconds > 0 else None


def busy(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """Seconds that sorted spans cover, those counted once in which they overlap."""
    total, until = 0.0, None
    for start, end in spans:
        begin = start if until is None else max(start, until)
        total += max(0.0, (end - begin).total_seconds())
        until = end if until is None else max(end, until)
    return total
