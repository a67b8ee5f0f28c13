"""A rank of a run in which something goes wrong; started by the launcher with what as its argument.

The first rank writes a clip under a temporary name meanwhile, as a generation does.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch

from videoaccel.media.writer import Writer
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.decode import decoded
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.layout import MeshLayout
from videoaccel.parallel.mesh import PATIENCE, Mesh, rank_here, ranks_here
from videoaccel.parallel.shards import Shards


def step(layout: MeshLayout, i: int, what: str) -> None:
    """One step: an exchange of tokens, a sum, decisions."""
    mesh, last = layout.mesh, layout.mesh.rank == layout.mesh.clip.size - 1
    mesh.where.site = "space.3.attn"
    if i == 2 and last and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if i == 2 and last and what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if i == 2 and last and what == "sleep":
        time.sleep(600)
    if i == 2 and what == "wait":
        Path(sys.argv[2]).with_name(f"{mesh.rank}.ready").touch()
        time.sleep(600)
    if i == 2 and last and what == "raise":
        raise ValueError("a bad day")
    mesh.sequence.all_to_all(torch.zeros(mesh.sequence.size, 8))
    numbers = layout.agree(torch.tensor([float("nan") if last and what == "nan" else 1.0]))
    finite = "compute" if not numbers.isfinite().all() else "reuse"
    decided = "reuse" if last and i == 2 and what == "differ" else finite if what == "nan" else "compute"
    layout.join({"cond": torch.zeros(1)}, lambda: {"space.3.attn": decided})
    if what == "nan":
        assert decided == "compute"


class Vae:
    """Four chunks of two frames; a rank may die over one.

    Args:
        mesh: The ranks.
        what: Goes wrong.
    """

    def __init__(self, mesh: Mesh, what: str) -> None:
        self.mesh, self.what = mesh, what

    def chunks(self, z: torch.Tensor, num_frames: int) -> list[tuple[torch.Tensor, int]]:
        return [(chunk, 2) for chunk in z.chunk(num_frames // 2, dim=2)]

    def decode_piece(self, z: torch.Tensor, num_frames: int, start: int, stop: int) -> torch.Tensor:
        if self.what == "decode" and self.mesh.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 3, stop - start, 16, 16)


def decode(mesh: Mesh, what: str, writer: Writer | None) -> None:
    """Eight frames by all ranks; the first writes them."""
    for chunk in decoded(cast(Any, Vae(mesh, what)), torch.zeros(1, 4, 4, 2, 2), 8, mesh=mesh):
        if writer is not None:
            writer.write(chunk[0].permute(1, 2, 3, 0).to(torch.uint8).numpy())
            if what == "write":
                os.kill(os.getpid(), signal.SIGKILL)


def main(what: str, output: str) -> None:
    """Three steps, and eight frames."""
    patience = {"sleep": 3.0, "stop": PATIENCE}.get(what, 60.0)
    with Mesh.from_env(Degrees(1, 1, ranks_here()), patience=patience) as mesh:
        mesh.require_alike({"steps": 4 if what == "config" and mesh.rank else 3})
        if mesh.degrees.ranks == 1:
            Path(output).write_text("alone")
            return
        layout = MeshLayout(mesh, Shards(6, mesh.sequence.size), ("cond", "uncond"))
        if mesh.first:
            with Writer(output, fps=8) as writer:
                for i in range(3):
                    step(layout, i, what)
                decode(mesh, what, writer)
            return
        for i in range(3):
            step(layout, i, what)
        decode(mesh, what, None)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except (RankError, ValueError, OSError) as error:
        known = " (as rank 0 did)" if getattr(error, "said_by_first", False) else ""
        print(f"rank {rank_here()} says: {error}{known}", file=sys.stderr, flush=True)
        os._exit(2 if isinstance(error, ValueError) else 1)
