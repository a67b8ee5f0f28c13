"""SODA's published rule within a budget: anchors and a ratio are given, what is computed between anchors follows."""

from collections.abc import Sequence

from videoaccel.models.seam import Site
from videoaccel.planning.plan import Errors, Plan, between_anchors, unreachable
from videoaccel.session.costs import Costs

ROUNDS = 20
"""Bisections of the offset: to a millionth of its range."""


def within_budget(
    anchors: Sequence[int], errors: Errors, sites: Sequence[Site], costs: Costs, *, slope: float, ratio: float
) -> Plan:
    """Anchors, and between them the rule ``paper`` with the offset of its shares (beta) tied to the budget.

    Args:
        anchors: Steps computed in full.
        errors: By step, site and age.
        sites: The M sites.
        costs: What is counted.
        slope: How the share to compute grows with the normalised cache error (lambda).
        ratio: How many times cheaper than computing everything the plan is to be, at least.

    Raises:
        UnreachableError: The anchors alone cost more.
    """
    least = min(errors.shares) / 2

    def made(offset: float) -> Plan:
        def keep(sensitivity: float) -> float:
            share = offset + slope * sensitivity
            return share if share >= least else 0.0  # serving is the nearest that there is

        return between_anchors(anchors, errors, sites, costs, rule="paper", keep=keep)

    known = errors.cache[errors.cache.isfinite()]
    low, high = -slope * float(known.max() / errors.cache[..., 0].mean().clamp_min(1e-30)), 1.0
    best = made(low)
    if best.ratio(costs) < ratio:
        raise unreachable(ratio, best.ratio(costs), costs.unit)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if (plan := made(middle)).ratio(costs) >= ratio:
            best, low = plan, middle
        else:
            high = middle
    return best
