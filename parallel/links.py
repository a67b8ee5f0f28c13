"""How fast ranks exchange: measured on what they run on, and kept for those who plan.

    python -m videoaccel.parallel.links FILE DEVICE

run as several ranks writes what the first found to a JSON file.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import Mesh, ranks_here

SIZES = (1 << 10, 1 << 20, 1 << 24)
"""Bytes that a rank holds in an exchange."""

REPEATS = 7


class Link(NamedTuple):
    """An exchange of all ranks with all.

    Attributes:
        ranks: How many.
        device: What they run on.
        latency: Seconds of a small exchange.
        speed: Bytes that a rank sends in a second of a large one.
    """

    ranks: int
    device: str
    latency: float
    speed: float


def measure_link(mesh: Mesh, *, device: str, sizes: Sequence[int] = SIZES, repeats: int = REPEATS) -> Link:
    """Time all-to-all exchanges of the ranks that share places: the slowest rank of the median round counts."""
    comm = mesh.sequence
    seconds: list[float] = []
    for size in sizes:
        x = torch.zeros(comm.size, max(1, size // comm.size), dtype=torch.uint8, device=device)
        took = []
        for round_ in range(repeats + 2):
            mesh.control.each(None)  # together
            _wait(device)
            start = time.perf_counter()
            comm.all_to_all(x)
            _wait(device)
            if round_ >= 2:
                took.append(time.perf_counter() - start)
        seconds.append(statistics.median(max(round_) for round_ in zip(*mesh.control.each(took), strict=True)))
    sent = sizes[-1] * (comm.size - 1) / comm.size
    return Link(comm.size, device, seconds[0], sent / max(seconds[-1] - seconds[0], 1e-9))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main(arguments: Sequence[str]) -> None:
    """Measure as one of several ranks; the first writes."""
    device = arguments[1]
    with Mesh.from_env(Degrees(1, 1, ranks_here()), device=device) as mesh:
        found = measure_link(mesh, device=device)
        if mesh.first:
            Path(arguments[0]).write_text(json.dumps(found._asdict()), encoding="utf-8")


def as_link(data: dict[str, Any]) -> Link:
    """From JSON."""
    return Link(int(data["ranks"]), str(data["device"]), float(data["latency"]), float(data["speed"]))


if __name__ == "__main__":
    main(sys.argv[1:])
