"""How much two outputs differ in direction, exactly enough for errors of a millionth.

Shape legend: R generation rows.
"""

import torch
from torch import Tensor


def cosine_error(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the angle between a and b [R, ...] over everything behind the rows, float32 [R].

    Written as (|a - b|^2 - (|a| - |b|)^2) / (2 |a| |b|): three sums, which add up over shards, and no difference of two
    numbers near 1, which would leave nothing of a small error. Of two zero vectors the error is 0, of one it is 1.
    """
    a, b = a.flatten(1).float(), b.flatten(1).float()
    apart, long, short = ((x * x).sum(1) for x in (a - b, a, b))
    product = (long * short).sqrt()
    error = (apart - (long.sqrt() - short.sqrt()).square()) / (2 * product).clamp_min(1e-30)
    same = (long == 0) & (short == 0)
    return torch.where(product > 0, error.clamp(0, 2), (~same).float())
