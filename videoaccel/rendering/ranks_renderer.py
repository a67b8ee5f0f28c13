"""Clips made by several ranks each: the first rank of a group is the worker, the others do as it says.

Only the first rank knows leases, cancellations and files. Before a unit it tells the others which; at every denoising
step it tells them whether to go on, so that all stop in the same place; after it all say what went wrong, if anything
did. A rank that is lost in the middle cannot be made up for: :class:`videoaccel.parallel.comm.RankError` ends them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoaccel.common.stages import Listener
from videoaccel.jobs.generate import Clip
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.mesh import Mesh
from videoaccel.rendering.plan import Plan, Planned, Unit
from videoaccel.rendering.renderer import LocalRenderer

AGREED = "denoise"
"""The stage in whose steps ranks stop together; what would stop them elsewhere waits until the clip is made."""


class _CalledOffError(Exception):
    """The first rank stopped here."""


@dataclass
class RanksRenderer:
    """A renderer for the first rank of a group; on the others `follow` is called instead.

    Attributes:
        local: Makes this rank's part.
        mesh: The ranks.
        plan: The same on all of them.
    """

    local: LocalRenderer
    mesh: Mesh
    plan: Plan

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> Sequence[tuple[Planned, Clip]]:
        """Make a unit's clips, see `videoaccel.rendering.renderer.Renderer`.

        Raises:
            RankError: A rank is gone, or out of step; nothing more can be made.
        """
        self.mesh.calm.same(("make", unit.id, dict(into)))
        steps = _Leading(listener, self.mesh)
        made, error = self._try(unit, into, steps)
        errors = self.mesh.calm.each(_told(error))
        if steps.stopped is not None:
            raise steps.stopped
        if error is not None:
            raise error
        for rank, told in enumerate(errors):
            if told is not None:
                raise (OutOfMemoryError if told[0] else RuntimeError)(f"rank {rank}: {told[1]}")
        return made

    def ease(self, unit: Unit, error: OutOfMemoryError) -> str | None:
        """See `Renderer`; all ranks save memory in the same way."""
        self.mesh.calm.same(("ease", unit.id, str(error)))
        return self.local.ease(unit, error)

    def eased(self, unit: Unit) -> tuple[str, ...]:
        """See `Renderer`."""
        return self.local.eased(unit)

    def dismiss(self) -> None:
        """Let the others go."""
        self.mesh.calm.same(None)

    def follow(self) -> None:
        """On the other ranks: do as the first one says, until it lets them go.

        Raises:
            RankError: A rank is gone, or out of step.
        """
        units = {unit.id: unit for unit in self.plan.units}
        while (told := self.mesh.calm.same(None)) is not None:
            what, id_, value = told
            if what == "ease":
                self.local.ease(units[id_], OutOfMemoryError(value))
                continue
            _, error = self._try(units[id_], value, _Following(self.mesh))
            self.mesh.calm.each(_told(error))

    def _try(
        self, unit: Unit, into: Mapping[str, Path], listener: Listener
    ) -> tuple[Sequence[tuple[Planned, Clip]], Exception | None]:
        """What was made, and what went wrong: that is for all ranks to know."""
        try:
            return self.local.make(unit, into, listener=listener), None
        except RankError:
            raise
        except Exception as error:
            return (), error


class _Leading:
    """Passes progress on; what its listener raises stops all ranks after the same step."""

    def __init__(self, listener: Listener, mesh: Mesh) -> None:
        self.listener, self.mesh = listener, mesh
        self.stopped: Exception | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.stopped is None:
            try:
                self.listener(stage, done, total)
            except Exception as error:
                self.stopped = error
        if stage == AGREED and self.mesh.control.same(self.stopped is not None):
            raise _CalledOffError


@dataclass
class _Following:
    """Hears at every step whether to go on."""

    mesh: Mesh

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == AGREED and self.mesh.control.same(None):
            raise _CalledOffError


def _told(error: Exception | None) -> Any:
    """An error as ranks tell each other: whether memory ran out, and what it says."""
    if error is None or isinstance(error, _CalledOffError):
        return None
    return isinstance(error, OutOfMemoryError), " ".join(str(error).split()) or type(error).__name__
