"""Who makes which job, agreed in a folder without locks: creating a file that must not exist, and renaming.

``ID.1.lease`` is the first try at a job. A try that failed becomes ``ID.1.failed``; one whose worker died is renamed to
``ID.1.dead-…``, which of several observers only one can do, and the next try is ``ID.2.lease``. When the job is done
all its files go. Two workers at one job, which a stalled machine can bring about, cost time and nothing else: a clip
appears by a rename that succeeds once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoaccel.common.files import atomic_write_text

_NAME = re.compile(r"([0-9a-z]+)\.(\d+)\.(lease|failed|dead-[0-9a-f]+)")


@dataclass(frozen=True)
class Lease:
    """One try at a job.

    Attributes:
        job: Identity of the unit of work.
        number: Of the try, counted from 1.
        worker: Who holds it; empty if the file is still being written.
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
        """Number of the next try."""
        return 1 + max([*self.failed, *self.dead], default=0)


class Leases:
    """The leases in a folder, as one worker uses them.

    Args:
        folder: Where they are.
        worker: Its name, which no other has.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder, self.worker = folder, worker

    def look(self) -> dict[str, Tries]:
        """All jobs that are held, or were tried before. One look into the folder."""
        found: dict[str, Tries] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if name := _NAME.fullmatch(entry.name):
                    tries, number = found.setdefault(name[1], Tries()), int(name[2])
                    if name[3] == "lease":
                        tries.held = number
                    else:
                        (tries.failed if name[3] == "failed" else tries.dead).append(number)
        return found

    def claim(self, job: str, tries: Tries | None = None) -> Lease | None:
        """Take a job that nobody holds; None if another was faster.

        Raises:
            OSError: The folder cannot be written.
        """
        lease = Lease(job, (tries or Tries()).next, self.worker)
        try:
            handle = os.open(self._path(lease), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        try:
            os.write(handle, json.dumps({"worker": self.worker}).encode())
        except BaseException:
            self.release(lease)
            raise
        finally:
            os.close(handle)
        return lease

    def holder(self, job: str, number: int) -> Lease | None:
        """Who holds a try; None if nobody does any more."""
        path = self.folder / f"{job}.{number}.lease"
        try:
            said = json.loads(path.read_text(encoding="utf-8") or "{}")
            return Lease(job, number, str(said.get("worker", "")))
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError):
            return Lease(job, number, "")

    def take(self, lease: Lease) -> bool:
        """Take a job from a worker that is dead, so that it can be claimed; False if another was faster."""
        now = self.holder(lease.job, lease.number)
        if now is None or now.worker != lease.worker:
            return False
        path = self._path(lease)
        try:
            os.rename(path, path.with_name(f"{lease.job}.{lease.number}.dead-{secrets.token_hex(6)}"))
        except FileNotFoundError:
            return False
        return True

    def release(self, lease: Lease) -> None:
        """Give a job back untouched."""
        self._path(lease).unlink(missing_ok=True)

    def fail(self, lease: Lease, said: Mapping[str, Any]) -> None:
        """End a try that failed.

        Args:
            lease: The try.
            said: Why, for people and the status.

        Raises:
            OSError: The disk is full.
        """
        path = self._path(lease)
        atomic_write_text(path.with_suffix(".failed"), json.dumps(dict(said), ensure_ascii=False))
        path.unlink(missing_ok=True)

    def why(self, job: str) -> dict[str, Any] | None:
        """What the last failed try at a job said; None if none failed."""
        found = sorted(self.folder.glob(f"{job}.*.failed"), key=lambda path: int(path.name.split(".")[1]))
        for path in reversed(found):
            with suppress(OSError, ValueError):
                said = json.loads(path.read_text(encoding="utf-8"))
                return said if isinstance(said, dict) else None
        return None

    def forget(self, job: str) -> None:
        """Remove all that is kept of a job: it is done, or shall be tried anew."""
        for path in self.folder.glob(f"{job}.*"):
            if _NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _path(self, lease: Lease) -> Path:
        return self.folder / f"{lease.job}.{lease.number}.lease"
