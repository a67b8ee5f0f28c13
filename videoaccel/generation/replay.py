"""What of a run's network calls is replayed: all of a call that computes everything, or the blocks between decisions.

A method that decides about steps has its calls recorded whole. One that decides about the stack of blocks, or a part of
it, has the blocks recorded that it computes, and looks and decides around them. One that decides about modules runs as
it is.

Shape legend: B rows, Z latent channels, T, h, w latent sizes, S places, C channels.
"""

from dataclasses import is_dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from videoaccel.generation.graphs import Graphs
from videoaccel.models.protocols import Context, Transformer
from videoaccel.models.seam import Site, Work
from videoaccel.parallel.layout import Layout
from videoaccel.session.job import Job, local_mix
from videoaccel.session.policy import Session

INSIDE = "what is inside of blocks is decided or looked at"
"""Why a call was not replayed, if nothing stood in the way but the method."""


class Replay:
    """Runs network calls of one generation, by graphs where that gives the same.

    Args:
        graphs: The network's.
        model: The network.
        layout: Which of the tokens are here.
        job: The generation.
        session: Its session.
    """

    def __init__(self, graphs: Graphs, *, model: Transformer, layout: Layout, job: Job, session: Session) -> None:
        self.graphs, self.model = graphs, model
        self._inside = Session(job, mix=layout.mix).run  # computes everything
        self._run = layout.around(self._inside)
        self._key = layout.key
        self._numbers = {site: number for number, site in enumerate(job.blocks)}
        self._blocks: dict[int, Work] | None = None
        bare = layout.alone and layout.kernel is None
        # A session with a mix of its own looks at what is mixed.
        self._whole_calls = all(mix == layout.mix or (bare and mix is local_mix) for mix in session.mixes)
        self._stretches = self._whole_calls and session.replay_blocks(self)

    # Whole calls ---------------------------------------------------------------------------------------------------

    def call(
        self, session: Session, run: Any, x: Tensor, timestep: Tensor, x_mask: Tensor | None, context: Context
    ) -> Tensor:
        """The network's output for a latent x [B, Z, T, h, w] at timesteps [B], x_mask [B, T], under a session."""
        if session.plain and self._whole_calls:
            return self.graphs(*self._whole(x, timestep, x_mask, context), size=self._size(x))
        if not self._stretches:
            self.graphs.plain[INSIDE] += 1
        return self.model(x, timestep, x_mask=x_mask, context=context, run=run)

    def ready(self, x: Tensor, timestep: Tensor, x_mask: Tensor | None, context: Context) -> Tensor:
        """Record such a call if it can be, and run nothing; returns x."""
        if self._whole_calls:
            self.graphs.prepare(*self._whole(x, timestep, x_mask, context), size=self._size(x))
        return x

    def _whole(self, x: Tensor, timestep: Tensor, x_mask: Tensor | None, context: Context) -> tuple[Any, ...]:
        return ("network", self._key), self._network, (x, timestep, x_mask), context

    def _network(self, moving: Any, fixed: Any) -> Tensor:
        x, timestep, x_mask = moving
        return self.model(x, timestep, x_mask=x_mask, context=fixed, run=self._run)

    def _size(self, x: Tensor) -> int:
        """Tokens of all rows times squared width."""
        return len(x) * prod(self.model.token_grid(x.shape[2:])) * self.model.width**2

    # Blocks --------------------------------------------------------------------------------------------------------

    def enter(self, body: Work, x: Tensor, cond: Any) -> None:
        """See :class:`videoaccel.session.stretches.Stretches`; the blocks of a generation are the same in every call.

        They are seen by a walk through the body that computes none of them (but the final layer, once a generation).
        """
        if self._blocks is None:
            found: dict[int, Work] = {}

            def walk(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
                found[self._numbers[site]] = branch
                return x

            body.compute(x, cond, walk)
            self._blocks = found

    def __call__(self, blocks: range, x: Tensor, cond: Any) -> Tensor:
        """See :class:`videoaccel.session.stretches.Stretches`."""
        assert self._blocks is not None
        works = [self._blocks[number] for number in blocks if number in self._blocks]

        def work(moving: Any, fixed: Any) -> Tensor:
            x, cond = moving
            if fixed is not None:
                cond = replace(cond, context=fixed)
            for one in works:
                x = one.compute(x, cond, self._inside)
            return x

        context = cond.context if is_dataclass(cond) and hasattr(cond, "context") else None
        if context is not None:
            cond = replace(cond, context=None)
        key = "blocks", blocks.start, blocks.stop, self._key
        return self.graphs(key, work, (x, cond), context, size=x.shape[:3].numel() * self.model.width**2)
