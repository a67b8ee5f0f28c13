"""TaylorSeer with one series: that of what all blocks add, or else that of the output."""

from videoaccel.adapters.methods import Rules, only_outputs
from videoaccel.adapters.periodic import Periodic
from videoaccel.adapters.rule import RuleMaker
from videoaccel.policies.taylorseer import TaylorSeer


def rules(policy: TaylorSeer) -> Rules:
    """The published period, warm-up and order."""
    only_outputs(policy, "scope", "modules")
    return RuleMaker(lambda: Periodic(lambda i, n: policy.due(i), order=policy.order), residual=policy.residual)
