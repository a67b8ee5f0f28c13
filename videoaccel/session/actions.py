"""What may be done instead of computing: the vocabulary that all methods share.

A decision is made at a *place*: a module, a block, or a span of blocks (the trunk is the span of all). What a place
adds to the residual stream is its delta; a slot keeps deltas of computed steps (:mod:`videoaccel.session.slots`).
"""

from collections.abc import Sequence
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
class Combine:
    """Serve a combination of the values of the last computed steps.

    Attributes:
        weights: Of the last computed value, the one before it, and so on.
        gaps: Steps between these: from the last to the one before it, and so on; one fewer than weights.
    """

    weights: tuple[float, ...]
    gaps: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"combine{len(self.weights)}"

    @property
    def on_terms(self) -> tuple[float, ...]:
        """Weights of a slot's terms (value, and its finite differences per step) that come to the same.

        >>> Combine((2.0, -1.0), (4,)).on_terms
        (1.0, 4.0)
        """
        first, second, third = (*self.weights, 0.0, 0.0)[:3]
        gap, before = (*self.gaps, 0, 0)[:2]
        found = (first + second + third, -gap * (second + third) - before * third, gap * before * third)
        return found[: len(self.weights)]


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


Action = Compute | Reuse | Forecast | Combine | Partial | Skip | Borrow

COMPUTE = Compute()
REUSE = Reuse()
SKIP = Skip()


def reads(action: Action) -> bool:
    """Whether the action needs a filled slot."""
    return isinstance(action, Reuse | Forecast | Combine) or (isinstance(action, Partial) and action.fill != "zero")


def precisely(action: Action) -> str:
    """The action in words, with all that it depends on.

    >>> precisely(Combine((1.25, -0.25), (3,)))
    'combine2(1.25 -0.25)'
    """
    weights = " ".join(f"{weight:.6g}" for weight in action.weights) if isinstance(action, Combine) else ""
    return f"{action}({weights})" if weights else str(action)


def order_of(action: Action) -> int:
    """Highest difference of a slot that the action reads."""
    if isinstance(action, Combine):
        return len(action.weights) - 1
    return action.order if isinstance(action, Forecast) else 0


def taylor_weights(ahead: Sequence[int]) -> tuple[float, ...]:
    """Of a slot's forecast of the highest order, as weights of the values that it was made from.

    Args:
        ahead: Steps from each value to the one that is forecast, the last computed value first; three at most.

    >>> taylor_weights([1, 3])
    (1.5, -0.5)
    """
    k = ahead[0]
    if len(ahead) == 1:
        return (1.0,)
    gap = ahead[1] - k
    if len(ahead) == 2:
        return (1 + k / gap, -k / gap)
    before = ahead[2] - ahead[1]
    slope, bend = k, k**2 / 2
    first = 1 + slope / gap + bend / gap**2
    second = -slope / gap - bend / gap**2 - bend / (gap * before)
    return (first, second, bend / (gap * before))
