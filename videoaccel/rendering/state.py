"""Where a render stands, read from its folder by anybody at any time; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import gone
from videoaccel.rendering.leases import Leases
from videoaccel.rendering.manifest import read_manifests

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
    """

    jobs: tuple[JobState, ...]
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_hour: float | None = None

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
    finished, leases = folder.finished(), Leases(folder.leases, "")
    looked = leases.look()
    jobs = []
    for job in _planned(folder):
        about = {"id": job["id"], "name": job["name"], "prompt": job["prompt"]}
        found = looked.get(job["unit"])
        count = 0 if found is None else len(found.failed) + len(found.dead)
        if job["id"] in finished:
            jobs.append(JobState(**about, state=DONE, folder=finished[job["id"]], tries=count))
            continue
        error = None
        if found is not None and found.failed:
            error = (leases.why(job["unit"]) or {}).get("error")
        if (folder.cancelled / job["id"]).exists():
            jobs.append(JobState(**about, state=CANCELLED, tries=count, error=error))
        elif found is not None and found.held is not None:
            holder = leases.holder(job["unit"], found.held)
            jobs.append(
                JobState(
                    **about, state=RUNNING, tries=count, error=error, worker=None if holder is None else holder.worker
                )
            )
        elif found is not None and (len(found.failed) >= tries or len(found.dead) >= deaths):
            error = error or f"its worker died {len(found.dead)} times"
            jobs.append(JobState(**about, state=FAILED, tries=count, error=error))
        else:
            jobs.append(JobState(**about, state=WAITING, tries=count, error=error))
    workers = dict(_workers(folder))
    return Status(tuple(jobs), workers, clips_per_hour(_of(folder, workers)))


def _planned(folder: RenderFolder) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for path in sorted(folder.plans.glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]:
                if job["id"] not in seen:
                    seen.add(job["id"])
                    yield job


def _workers(folder: RenderFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Workers that have a counter, but for those of this machine whose process is gone."""
    for path in sorted(folder.workers.glob("*.beat")):
        with suppress(OSError):
            if gone(path.read_bytes()):
                continue
            try:
                said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                said = {}
            yield path.stem, said if isinstance(said, dict) else {}


def _of(folder: RenderFolder, workers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the workers that are there have written down; where none is, all."""
    return (row for row in read_manifests(folder.manifest) if not workers or str(row.get("worker")) in workers)


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
