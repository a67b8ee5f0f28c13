"""Who makes which job, agreed in a folder without locks: creating a file that must not exist, and renaming.

``ID.1.lease`` is the first try at a job. A try that failed becomes ``ID.1.failed``; one whose worker died is renamed to
``ID.1.dead-…``, which of several observers only one can do, and the next try is ``ID.2.lease``. When the job is done
all its files go. Two workers at one job, which a stalled machine can bring about, cost time and nothing else: a clip
appears by a rename that succeeds once.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from videoaccel.common.plain_json import parse_json
from videoaccel.rendering.inside import Inside, is_worker
from videoaccel.rendering.said import PassedOver, mapping, read_said, text

_NAME = re.compile(r"([0-9a-z]{1,40})\.([0-9]{1,9})\.(lease|failed|dead-[0-9a-f]{1,32})")
_LIMIT = 64 << 10  # bytes of a lease, or of what a failed try says


@dataclass(frozen=True)
class Lease:
    """One try at a job.

    Attributes:
        job: Identity of the unit of work.
        number: Of the try, counted from 1.
        worker: Who holds it; empty if the file is still being written, or does not say it as a worker would.
    """

    job: str
    number: int
    worker: str


@dataclass
class Tries:
    """What is known of a job's tries.

    Attributes:
        held: Number of the try that is held now; None if none is.
        failed: Tries that ended with an error.
        dead: Tries whose worker died.
    """

    held: int | None = None
    failed: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)

    @property
    def next(self) -> int:
        """Number of the next try: the first that there is nothing of."""
        tried = {*self.failed, *self.dead}
        return next(number for number in itertools.count(1) if number not in tried)


class Leases:
    """The leases in a folder, as one worker uses them.

    Args:
        folder: Where they are.
        worker: Its name, which no other has.
    """

    def __init__(self, folder: Inside, worker: str) -> None:
        self.folder, self.worker = folder, worker

    def look(self, *, passed: PassedOver | None = None) -> dict[str, Tries]:
        """All jobs that are held, or were tried before. One look into the folder.

        Args:
            passed: Counts names that are no lease's.
        """
        found: dict[str, Tries] = {}
        for entry in self.folder.names():
            if name := _NAME.fullmatch(entry):
                tries, number = found.setdefault(name[1], Tries()), int(name[2])
                if name[3] == "lease":
                    tries.held = max(number, tries.held or 0)
                else:
                    (tries.failed if name[3] == "failed" else tries.dead).append(number)
            elif passed is not None and not entry.startswith("."):
                passed.add(f"leases/{entry}")
        return found

    def claim(self, job: str, tries: Tries | None = None) -> Lease | None:
        """Take a job that nobody holds; None if another was faster.

        Raises:
            OSError: The folder cannot be written.
        """
        lease = Lease(job, (tries or Tries()).next, self.worker)
        made = self.folder.create(_file(lease), json.dumps({"worker": self.worker}).encode())
        return lease if made else None

    def holder(self, job: str, number: int, *, passed: PassedOver | None = None) -> Lease | None:
        """Who holds a try; None if nobody does any more.

        Args:
            job: Identity of the unit of work.
            number: Of the try.
            passed: Counts a lease that names nobody who could be a worker.
        """
        lease, worker = Lease(job, number, ""), None
        try:
            data = self.folder.read(_file(lease), limit=_LIMIT)
            worker = mapping(parse_json(data)).get("worker") if data else ""
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            pass
        if worker != "" and not is_worker(worker):
            if passed is not None:
                passed.add(f"leases/{_file(lease)}")
            return lease
        return Lease(job, number, str(worker))

    def holds(self, lease: Lease) -> bool:
        """Whether a lease of this worker is still its own: others take it from one whose counter stands still."""
        now = self.holder(lease.job, lease.number)
        return now is not None and now.worker == self.worker != ""

    def held_by(self, worker: str) -> Iterator[Lease]:
        """All leases of a worker."""
        for job, tries in self.look().items():
            held = None if tries.held is None else self.holder(job, tries.held)
            if held is not None and held.worker == worker:
                yield held

    def take(self, lease: Lease) -> bool:
        """Take a job from a worker that is dead, so that it can be claimed; False if another was faster."""
        now = self.holder(lease.job, lease.number)
        if now is None or now.worker != lease.worker:
            return False
        try:
            self.folder.rename(_file(lease), f"{lease.job}.{lease.number}.dead-{secrets.token_hex(6)}")
        except FileNotFoundError:
            return False
        return True

    def release(self, lease: Lease) -> bool:
        """Give a job back untouched; False if the lease was not this worker's any more, and then it stays."""
        if not self.holds(lease):
            return False
        self.folder.unlink(_file(lease))
        return True

    def fail(self, lease: Lease, said: Mapping[str, Any], *, times: int = 1) -> bool:
        """End a try of this worker that failed.

        Args:
            lease: The try.
            said: Why, for people and the status.
            times: Count it as so many tries: there is no hope for the others.

        Returns:
            False if the lease was not this worker's any more: then nothing is said.

        Raises:
            OSError: The disk is full.
        """
        if not self.holds(lease):
            return False
        data = json.dumps(dict(said), ensure_ascii=False).encode(errors="replace")
        for number in range(lease.number, lease.number + max(1, times)):
            self.folder.write(f"{lease.job}.{number}.failed", data)
        self.folder.unlink(_file(lease))
        return True

    def why(self, job: str) -> str | None:
        """What the last failed try at a job said; None if none failed, or said anything."""
        found = (_NAME.fullmatch(name) for name in self.folder.names() if name.startswith(f"{job}."))
        for name in sorted((one for one in found if one and one[3] == "failed"), key=lambda one: -int(one[2])):
            said = mapping(read_said(self.folder, name[0], limit=_LIMIT)).get("error")
            if isinstance(said, str):
                return text(said)
        return None

    def forget(self, job: str, *, done: bool = False) -> None:
        """Remove what is kept of a job.

        Args:
            job: Identity of the unit of work.
            done: Its clips are there, so that whoever else is at it may stop: a lease that another holds goes, too.
        """
        for entry in self.folder.names():
            name = _NAME.fullmatch(entry)
            if name and name[1] == job:
                if name[3] == "lease" and not done:
                    self.release(Lease(job, int(name[2]), self.worker))
                else:
                    with suppress(OSError):
                        self.folder.unlink(entry)


def _file(lease: Lease) -> str:
    return f"{lease.job}.{lease.number}.lease"
