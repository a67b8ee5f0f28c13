"""Recordings without a CUDA device: the work is done again, into the tensor that it was recorded with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from videoaccel.generation.graphs import Graphs


class Again:
    """A recording that runs what it recorded, on what lies in its places by then."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self.work, self.out, self.released = work, work().clone(), False

    def replay(self) -> None:
        assert not self.released
        self.out.copy_(self.work())

    def release(self) -> None:
        self.released = True


class StandIn:
    """A recorder for the CPU; times are what the test says, plain first."""

    def __init__(self, *, times: tuple[float, float] = (2.0, 1.0), room: str | None = None) -> None:
        self.device = torch.device("cpu")
        self.times, self.room = times, room
        self.made: list[Again] = []
        self.forgotten = 0
        self.failure: Exception | None = None

    def record(self, work: Callable[[], Tensor]) -> Again:
        if self.failure is not None:
            raise self.failure
        self.made.append(Again(work))
        return self.made[-1]

    def milliseconds(self, work: Callable[[], Any]) -> float:
        work()
        return self.times[getattr(work, "__name__", "") == "replay"]

    def why_no_room(self, work: int) -> str | None:
        return self.room

    def forget(self) -> None:
        self.forgotten += 1


def stand_in(**fields: Any) -> Graphs:
    """Graphs by a stand-in, on unless told otherwise."""
    recorder = StandIn(**{name: fields.pop(name) for name in ("times", "room") if name in fields})
    return Graphs(recorder, **{"asked": "on", **fields})
