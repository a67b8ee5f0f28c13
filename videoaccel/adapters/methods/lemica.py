"""LeMiCa's path over what holding the output makes of the latents, read off dense runs."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from videoaccel.adapters.planned import Step
from videoaccel.policies.lemica import LeMiCa, minimax_path

STEPS = 30
"""Of so many steps the default budget is one; of others it is that share."""


def schedule(policy: LeMiCa, tables: Mapping[str, Tensor], n: int) -> Sequence[Step]:
    """What becomes of n evaluations.

    Raises:
        ValueError: There is no schedule of so few.
    """
    told = "budget" in policy.model_fields_set
    budget = policy.budget if told else max(2, round(policy.budget * n / STEPS))
    if budget >= n:
        raise ValueError(f"lemica with a budget of {budget} has nothing to leave out of {n} evaluations")
    path = minimax_path(tables["lemica.error"].tolist(), budget)
    return [None if i in path else 0 for i in range(n)]
