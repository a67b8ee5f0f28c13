"""A rank that makes a clip, and kills itself in some stage of it the first time; started by torchrun."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from videoaccel.jobs.generate import generate
from videoaccel.media.writer import Writer
from videoaccel.parallel.mesh import rank_here, ranks_here
from videoaccel.settings.layers import Layer, merge


def die() -> None:
    """The first time; then there is a file that says so."""
    if not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main(model: str, stage: str, victim: str, output: str) -> None:
    """One clip."""
    mine = rank_here() == int(victim)
    if mine and stage == "write":
        write = Writer.write

        def dying(writer: Writer, frames: Any) -> None:
            write(writer, frames)
            die()

        Writer.write = dying  # type: ignore[method-assign]
    values = {"prompt": "a red circle", "model": model, "output": output, "steps": 3, "frames": 20, "patience": 60}
    settings = merge([Layer({**values, "sp": ranks_here() if ranks_here() > 1 else None})])

    def heard(name: str, done: int, total: int) -> None:
        if mine and name == stage:
            die()

    generate(settings, listener=heard)


if __name__ == "__main__":
    main(*sys.argv[1:])
