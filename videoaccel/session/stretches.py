"""Blocks that follow one another, run as one piece."""

from typing import Any, Protocol

from torch import Tensor

from videoaccel.models.seam import Work


class Stretches(Protocol):
    """Runs blocks that follow one another as one piece, such as a recorded graph."""

    def enter(self, body: Work, x: Tensor, cond: Any) -> None:
        """A network call begins: its body, and what enters it."""
        ...

    def __call__(self, blocks: range, x: Tensor, cond: Any) -> Tensor:
        """The stream after all of ``blocks``, by their numbers; x [B, T, S, C] enters the first."""
        ...
