"""MagCache by the magnitude of the output, calibrated on the pipeline itself."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from videoaccel.adapters.planned import Step
from videoaccel.policies.magcache import Errand, MagCache


def schedule(policy: MagCache, tables: Mapping[str, Tensor], n: int) -> Sequence[Step]:
    """What becomes of n evaluations."""
    ratios, networks = tables["magcache.ratio"].tolist(), tables["component"].tolist()
    errand, steps = Errand(policy, n), []
    for i in range(n):
        begins = i == 0 or networks[i] != networks[i - 1]
        computed = begins or not errand.serves(i, ratios[i])
        if computed:
            errand.start_over()
        steps.append(None if computed else 0)
    return steps


def check(policy: MagCache) -> None:
    """Refuse the published constants: they are another network's.

    Raises:
        ValueError: They are asked for.
    """
    if policy.constants == "published":
        raise ValueError("magcache's published constants are Open-Sora's; here they are calibrated")
