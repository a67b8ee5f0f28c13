"""What happened, or would happen, at every module in every step, whoever decided it: the network, a span, a block."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from videoaccel.models.seam import BODY, Site
from videoaccel.session.actions import COMPUTE, SKIP, Action, Borrow, Compute, Partial, Place, Span

LETTERS = "cpfrbs"
"""Of actions, from the dearest to the cheapest: compute, part of it, forecast, reuse, borrow, skip."""

NAMES = ("compute", "compute part", "forecast", "reuse", "borrow", "skip")
"""What the letters stand for."""


def spread(
    step: Mapping[Place, Action], blocks: Mapping[Site, tuple[Site, ...]], *, share: float = 1.0
) -> dict[Site, Action]:
    """Actions of one step by module. What serves a larger place serves all in it.

    Where a guidance branch borrows from the other, so do the modules that the other computes.

    Args:
        step: By place; what is not named is computed.
        blocks: The network's blocks, each with its modules.
        share: Rows of the network call over all rows; at 0 the whole step was served.
    """
    step = step if share else {BODY: SKIP, **step}
    found: dict[Site, Action] = {}
    whole = step.get(BODY, COMPUTE)
    usual = whole if isinstance(whole, Borrow) else COMPUTE
    whole = COMPUTE if isinstance(whole, Borrow) else whole
    spans = {place: action for place, action in step.items() if isinstance(place, Span)}
    for number, (block, modules) in enumerate(blocks.items()):
        inside = next((action for span, action in spans.items() if span.start <= number < span.stop), COMPUTE)
        larger = [action for action in (whole, inside, step.get(block, COMPUTE)) if not isinstance(action, Compute)]
        for site in modules:
            own = step.get(site, COMPUTE)
            found[site] = larger[0] if larger else usual if own == COMPUTE else own
    return found


def averaged(traces: Sequence[tuple[Mapping[Place, Action], int]]) -> dict[Place, Action]:
    """One trace of a step for several groups of rows: a place that some computed and others not was computed in part.

    Args:
        traces: Of each group, with its number of rows; what a group has decided nothing about it has skipped.
    """
    total = sum(count for _, count in traces)
    found: dict[Place, Action] = {}
    for place in dict.fromkeys(place for trace, _ in traces for place in trace):
        actions = [(trace.get(place, SKIP), count) for trace, count in traces]
        if len({action for action, _ in actions}) == 1:
            found[place] = actions[0][0]
            continue
        spent = math.fsum(count * _computed(action) for action, count in actions)
        whole = isinstance(place, Span) or place.kind in ("body", "block")
        found[place] = COMPUTE if whole and spent else Compute(spent / total) if spent else SKIP
    return found


def _computed(action: Action) -> float:
    """How much of it is computed."""
    return action.width if isinstance(action, Compute) else action.keep if isinstance(action, Partial) else 0.0


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
    kinds = {"compute": "c", "partial": "p", "forecast": "f", "combine": "f", "reuse": "r", "borrow": "b"}
    if isinstance(action, Compute) and action.width != 1:
        return "p"
    return kinds.get(type(action).__name__.lower(), "s")
