"""A network of stubs: blocks that add given numbers, so that decisions can be followed by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import make_job
from videoaccel.models.seam import Run, Site
from videoaccel.session.job import Job
from videoaccel.session.policy import Session

SHAPE = (2, 4, 3)
"""T, S, C of a stub's stream."""


def stub_job(steps: int, *, layers: int = 1, batch: int = 1, guidance: float = 1.0, **fields: Any) -> Job:
    """The job of a network with so many pairs of blocks."""
    job = make_job(tiny_stdit(depth=1), steps=steps, batch=batch, guidance=guidance, **fields)
    blocks = {
        Site("block", axis, layer): tuple(Site(kind, axis, layer) for kind in ("attn", "cross", "mlp"))  # type: ignore[arg-type]
        for layer in range(layers)
        for axis in ("space", "time")
    }
    return replace(job, blocks=blocks, places=SHAPE[1])  # type: ignore[arg-type]


class Adds:
    """A block that adds a number of its own in every step; its attention sees the stream as it is."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers, self.step, self.calls = numbers, 0, 0

    @property
    def attn(self) -> "Adds":
        return self

    def localise(self, cond: Any) -> Any:
        return cond

    def pre(self, x: Tensor, cond: Any) -> Tensor:
        return x

    def compute(self, x: Tensor, cond: Any, run: Run) -> Tensor:
        self.calls += 1
        return x + self.numbers[self.step]


def play(
    session: Session,
    blocks: Sequence[Adds],
    stream: Callable[[int], float],
    *,
    after: Callable[[int], None] | None = None,
) -> list[float]:
    """Run the blocks on a constant stream in every step; what comes out, as numbers."""
    outs = []
    for i in range(session.job.steps):
        session.begin(i)
        x = torch.full((session.job.rows, *SHAPE), float(stream(i)))
        for site, block in zip(session.job.blocks, blocks, strict=True):
            block.step = i
            x = session.run(site, block, x, None)
        assert (x == x.flatten()[0]).all()
        outs.append(x.flatten()[0].item())
        if after is not None:
            after(i)
    return outs
