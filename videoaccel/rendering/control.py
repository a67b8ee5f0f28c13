"""What may end a job before it is done: signals, cancelling, time running out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from videoaccel.rendering.inside import Inside

ALL = "all-"
"""How the names of files begin that cancel a whole render; those that cancel a job are its identity."""

_LOADING = ("", "text", "load")  # not the job's own time: the next job finds the networks loaded
_LOOK = 1.0  # seconds between looks for cancelling
_MARGIN = 1.3  # the rest of a clip is taken to need so many times what its steps so far foretell


class StoppedError(Exception):
    """The worker is to stop; its job goes back untouched."""


class CancelledError(Exception):
    """This job is not wanted any more."""


class TimedOutError(Exception):
    """A job took longer than it may; says how long."""


@dataclass
class Control:
    """Knows whether the work shall go on; asked at every step of a job.

    Attributes:
        cancelled: Folder of cancelling.
        timeout: Seconds that one try at a job may take; None for any time.
        now: A clock that only goes forward.
        stopping: Whether the worker is to stop.
    """

    cancelled: Inside
    timeout: float | None = None
    now: Callable[[], float] = time.monotonic
    stopping: bool = False
    _until: float = 0.0
    _ids: tuple[str, ...] = ()
    _began: float | None = None
    _counted: float | None = None
    _looked: float = float("-inf")
    _steps: tuple[float, int] | None = None
    _before: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self._before = frozenset(self._marks())  # what was cancelled before this worker began is over

    def stop(self, *, grace: float) -> None:
        """Stop when the job at hand is done, if that will be within ``grace`` seconds, and else at once."""
        self._until = self.now() + grace
        self.stopping = True

    @contextmanager
    def job(self, ids: tuple[str, ...]) -> Iterator[None]:
        """While the block runs, these are the job's identities."""
        self._ids, self._began, self._counted, self._steps = ids, self.now(), None, None
        try:
            yield
        finally:
            self._ids, self._began, self._counted, self._steps = (), None, None, None

    def check(self, stage: str = "", done: int = 0, total: int = 1) -> None:
        """Go on, or not; is a :data:`videoaccel.common.stages.Listener`.

        Raises:
            StoppedError: The worker was told to stop, and the job will not be done in time.
            CancelledError: The job, or all, was cancelled.
            TimedOutError: The job took too long.
        """
        now = self.now()
        if self._began is not None and self._counted is None and stage not in _LOADING:
            self._counted = now
        if stage == "denoise" and (done == 0 or self._steps is None):
            self._steps = (now, done)
        if self.stopping and (self._began is None or now + self._left(stage, done, total, now) > self._until):
            raise StoppedError
        if self.late(0):
            raise TimedOutError(f"it was not done after {self.timeout:g} s")
        if now - self._looked >= _LOOK:
            self._looked = now
            if self.cancelled_all():
                self.stopping = True
                raise StoppedError
            if any(self.is_cancelled(one) for one in self._ids):
                raise CancelledError

    def late(self, margin: float) -> bool:
        """Whether the job at hand has run out of its time, and a margin."""
        since = self._counted
        return self.timeout is not None and since is not None and self.now() - since > self.timeout + margin

    def overdue(self, margin: float) -> bool:
        """Whether the worker should have stopped, and a margin."""
        return self.stopping and self._began is not None and self.now() > self._until + margin

    def is_cancelled(self, job: str) -> bool:
        """Whether this job was cancelled."""
        return self.cancelled.exists(job)

    def cancelled_all(self) -> bool:
        """Whether everything was cancelled since this worker began."""
        return bool(self._marks() - self._before)

    def _marks(self) -> set[str]:
        return {name for name in self.cancelled.names() if name.startswith(ALL)}

    def _left(self, stage: str, done: int, total: int, now: float) -> float:
        """Seconds that the job will still take, as far as its steps tell; before any it is as good as not begun."""
        if stage in ("decode", "write"):
            return 0.0
        if stage != "denoise" or self._steps is None or done <= self._steps[1]:
            return float("inf")
        since, first = self._steps
        return _MARGIN * (now - since) / (done - first) * (total - done)
