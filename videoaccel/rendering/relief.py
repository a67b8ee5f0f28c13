"""Taking over from workers that are dead, and putting away what they have left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import Observer, with_beats
from videoaccel.rendering.leases import Lease, Leases
from videoaccel.rendering.plan import Unit

WATCHED = 20
"""Held leases of which one look sees whether their workers live. Of more, the next look sees the next ones: a thousand
workers that all watched each other would do nothing else."""


@dataclass
class Relief:
    """One worker's part in it.

    Attributes:
        folder: Of the render.
        leases: As this worker uses them.
        observer: Watches the others' counters.
        taken: Told of every lease that was taken.
    """

    folder: RenderFolder
    leases: Leases
    observer: Observer
    taken: Callable[[Lease], None]
    _from: int = 0

    def watched(self, held: Sequence[Unit]) -> Iterator[Unit]:
        """Some of the units that others are at; with every call the next ones."""
        if self._from >= len(held):
            self._from = 0
        yield from held[self._from : self._from + WATCHED]
        self._from += WATCHED

    def took(self, job: str, number: int) -> bool:
        """Take a try from a worker that is dead, so that the job can be claimed; False if somebody is at it.

        Args:
            job: Identity of the unit.
            number: Of the try that is held.
        """
        lease = self.leases.holder(job, number)
        if lease is None:
            return True  # it has just been finished or given back
        if lease.worker == self.leases.worker or not self.observer.dead(lease.worker, lease=f"{job}.{number}"):
            return False
        if lease.worker:
            self.bury(lease.worker)
        else:
            self._take(lease)
        return True

    def bury(self, worker: str) -> None:
        """Put away what a dead worker has left; first its leases: should it wake, it is to see that it lost them."""
        for lease in self.leases.held_by(worker):
            if not self.observer.dead(worker):  # it woke meanwhile, and may be at another job
                return
            self._take(lease)
        self.folder.sweep(worker)
        self.observer.forget(worker)

    def tidy(self, units: Sequence[Unit], finished: Mapping[str, Path]) -> None:
        """Put away what workers have left that died when there was nothing more to take over from them.

        Args:
            units: Of the plan.
            finished: By identity the clips that are there.
        """
        looked = self.leases.look()
        for unit in units if looked else ():
            if unit.id in looked and all(job.id in finished for job in unit.jobs):
                self.leases.forget(unit.id, done=True)
        for worker in {*self.folder.left_behind(), *with_beats(self.folder.workers)}:
            if worker != self.leases.worker and self.observer.dead(worker):
                self.bury(worker)
        if {*with_beats(self.folder.workers)} <= {self.leases.worker}:
            self.folder.sweep_parts()

    def _take(self, lease: Lease) -> None:
        if self.leases.take(lease):
            self.taken(lease)
