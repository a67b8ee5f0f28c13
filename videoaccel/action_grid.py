"""What happened, or would happen, at every module in every step, whoever decided it: the network, a span, a block."""

from collections.abc import Mapping, Sequence
from typing import Any

from videoaccel.actions import COMPUTE, SKIP, Action, Compute, Place, Span
from videoaccel.models.seam import BODY, Site

LETTERS = "cpfrbs"
"""Of actions, from the dearest to the cheapest: compute, part of it, forecast, reuse, borrow, skip."""

NAMES = ("compute", "compute part", "forecast", "reuse", "borrow", "skip")
"""What the letters stand for."""


def spread(
    step: Mapping[Place, Action], blocks: Mapping[Site, tuple[Site, ...]], *, share: float = 1.0
) -> dict[Site, Action]:
    """Actions of one step by module. What serves a larger place serves all in it.

    Args:
        step: By place; what is not named is computed.
        blocks: The network's blocks, each with its modules.
        share: Rows of the network call over all rows; at 0 the whole step was served.
    """
    step = step if share else {BODY: SKIP, **step}
    found: dict[Site, Action] = {}
    whole = step.get(BODY, COMPUTE)
    spans = {place: action for place, action in step.items() if isinstance(place, Span)}
    for number, (block, modules) in enumerate(blocks.items()):
        inside = next((action for span, action in spans.items() if span.start <= number < span.stop), COMPUTE)
        larger = [action for action in (whole, inside, step.get(block, COMPUTE)) if not isinstance(action, Compute)]
        for site in modules:
            found[site] = larger[0] if larger else step.get(site, COMPUTE)
    return found


def as_letters(
    trace: Sequence[Mapping[Place, Action]], shares: Sequence[float], blocks: Mapping[Site, tuple[Site, ...]]
) -> dict[str, Any]:
    """A run's decisions for JSON: names of modules, and a string a step with one of `LETTERS` a module."""
    sites = [site for modules in blocks.values() for site in modules]
    steps = [spread(step, blocks, share=share) for step, share in zip(trace, shares, strict=True)]
    return {
        "sites": [str(site) for site in sites],
        "steps": ["".join(_letter(step[site]) for site in sites) for step in steps],
    }


def _letter(action: Action) -> str:
    kinds = {"compute": "c", "partial": "p", "forecast": "f", "reuse": "r", "borrow": "b"}
    if isinstance(action, Compute) and action.width != 1:
        return "p"
    return kinds.get(type(action).__name__.lower(), "s")
