"""A rank that makes a clip, and kills itself in some stage of it the first time; started by torchrun."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from videoaccel.common.stages import StageClock
from videoaccel.jobs.generate import generate
from videoaccel.media.writer import Writer
from videoaccel.parallel.mesh import rank_here, ranks_here
from videoaccel.settings.layers import Layer, merge


def die() -> None:
    """The first time; then there is a file that says so."""
    if not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def put_to_death(stage: str) -> None:
    """Die in a stage, or with a part of the file written."""
    tell, write = StageClock._tell, Writer.write

    def heard(clock: StageClock, name: str, done: int, total: int) -> None:
        if name == stage:
            die()
        tell(clock, name, done, total)

    def written(writer: Writer, frames: Any) -> None:
        write(writer, frames)
        if stage == "write":
            die()

    StageClock._tell = heard  # type: ignore[method-assign]
    Writer.write = written  # type: ignore[method-assign]


def main(model: str, stage: str, victim: str, output: str, provider: str = "torch") -> None:
    """One clip."""
    if rank_here() == int(victim):
        put_to_death(stage)
    values = {"prompt": "a red circle", "model": model, "output": output, "steps": 3, "frames": 20, "patience": 60}
    several = ranks_here() > 1
    settings = merge(
        [Layer({**values, "sp": ranks_here() if several else None, "provider": provider if several else "torch"})]
    )
    generate(settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
