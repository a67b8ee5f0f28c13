"""What ranks that render together do; importable by their processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch.distributed as dist

from videoaccel.common.stages import Listener
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import Mesh
from videoaccel.rendering.control import CancelledError
from videoaccel.rendering.plan import Plan, Unit
from videoaccel.rendering.ranks_renderer import RanksRenderer

UNITS = [SimpleNamespace(id=name) for name in ("first", "second", "third")]


@dataclass
class Part:
    """This rank's part of a clip: five steps and two chunks to write."""

    mesh: Mesh
    fails: Mapping[int, Exception] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> Sequence[Any]:
        self.log.append(unit.id)
        for step in range(6):
            listener("denoise", step, 5)
            self.mesh.clip.same(step)  # what ranks exchange in a step
        if (error := self.fails.get(self.mesh.rank)) is not None:
            raise error
        for chunk in range(3):
            listener("write", chunk, 2)
        self.log.append(f"made {unit.id}")
        return [unit.id] if self.mesh.leads else []

    def ease(self, unit: Unit, error: OutOfMemoryError) -> str | None:
        self.log.append(f"eased {unit.id}: {error}")
        return "less"

    def eased(self, unit: Unit) -> tuple[str, ...]:
        return ("less",)


def render(fails: Mapping[int, Exception], stop: tuple[str, int] | None) -> tuple[list[str], list[str]]:
    """Make three units; returns what this rank did, and on the first one what came of each unit."""
    mesh = Mesh.from_env(Degrees(1, 1, dist.get_world_size()))
    part, results = Part(mesh, fails), []
    renderer = RanksRenderer(cast(Any, part), mesh, cast(Plan, SimpleNamespace(units=UNITS)))
    if not mesh.leads:
        renderer.follow()
        return part.log, []

    def listen(stage: str, done: int, total: int) -> None:
        if (stage, done) == stop and part.log[-1] == "second":
            raise CancelledError("second was cancelled")

    for unit in cast(Any, UNITS):
        try:
            results.append(str(renderer.make(unit, {}, listener=listen)))
        except OutOfMemoryError as error:
            results.append(f"{renderer.ease(unit, error)}: {error}")
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")
    renderer.dismiss()
    return part.log, results
