"""What may be done instead of computing: the vocabulary that all methods share.

A decision is made at a *place*: a module, a block, or a span of blocks (the trunk is the span of all). What a place
adds to the residual stream is its delta; a slot keeps deltas of computed steps (:mod:`videoaccel.session.slots`).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from videoaccel.models.seam import Site

Form = Literal["output", "gated", "absolute"]
"""What a module's slot keeps: its output before the gate (the present gate is applied when it is served), after the
gate (added as it is), or the whole stream after it. Blocks and spans keep what they added ("gated") or "absolute"."""

Fill = Literal["reuse", "forecast", "zero"]
Keys = Literal["kept", "all"]


class Span(NamedTuple):
    """Blocks ``start`` to ``stop - 1`` in the order in which they run."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"blocks.{self.start}-{self.stop - 1}"


Place = Site | Span


@dataclass(frozen=True)
class Compute:
    """Run it; of an MLP's hidden neurons only the first ``width`` share."""

    width: float = 1.0

    def __str__(self) -> str:
        return "compute" if self.width == 1.0 else f"width{self.width:g}"


@dataclass(frozen=True)
class Reuse:
    """Serve the delta of the last computed step, times ``gain``."""

    gain: float = 1.0

    def __str__(self) -> str:
        return "reuse"


@dataclass(frozen=True)
class Forecast:
    """Serve a Taylor forecast from the last ``order + 1`` computed steps; its slope terms are scaled by ``gain``."""

    order: int = 1
    gain: float = 1.0

    def __str__(self) -> str:
        return f"forecast{self.order}"


@dataclass(frozen=True)
class Partial:
    """Compute ``keep`` of the columns (a column is a place in all frames), fill the rest from the slot.

    Attributes:
        keep: Share of columns, in (0, 1).
        fill: What the other columns get: the slot's delta, its forecast of order 1, or nothing.
        keys: Spatial attention looks at the kept columns only, or at all.
    """

    keep: float
    fill: Fill = "reuse"
    keys: Keys = "all"

    def __str__(self) -> str:
        return f"partial{self.keep:g}"


@dataclass(frozen=True)
class Skip:
    """Add nothing."""

    def __str__(self) -> str:
        return "skip"


@dataclass(frozen=True)
class Borrow:
    """Of the whole network: one guidance branch is not run, but made from the other.

    What the other computes is decided at the places inside.

    Attributes:
        branch: The one that is not run.
    """

    branch: str = "uncond"

    def __str__(self) -> str:
        return f"borrow-{self.branch}"


Action = Compute | Reuse | Forecast | Partial | Skip | Borrow

COMPUTE = Compute()
REUSE = Reuse()
SKIP = Skip()


def reads(action: Action) -> bool:
    """Whether the action needs a filled slot."""
    return isinstance(action, Reuse | Forecast) or (isinstance(action, Partial) and action.fill != "zero")
