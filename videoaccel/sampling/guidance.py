"""Classifier-free guidance: the branches' velocities become one.

Shape legend: B samples.
"""

from collections.abc import Mapping

from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, *, scale: float) -> Tensor:
    """Classifier-free guidance, ``uncond + scale * (cond - uncond)``: scale 1 is the conditional velocity."""
    return uncond + scale * (cond - uncond)


def combine(velocities: Mapping[str, Tensor], scale: float) -> Tensor:
    """Guidance of the branches that ran, each [B, ...]: the conditional one alone, or away from the unconditional."""
    if "uncond" not in velocities:
        return velocities["cond"]
    return guide(velocities["cond"], velocities["uncond"], scale=scale)
