"""FORA with one residual: what all blocks added in the last computed evaluation is held, or else the output."""

from videoaccel.adapters.methods import Rules, only_outputs
from videoaccel.adapters.periodic import Periodic
from videoaccel.adapters.rule import RuleMaker
from videoaccel.policies.fora import Fora


def rules(policy: Fora) -> Rules:
    """The published period and warm-up."""
    only_outputs(policy, "slots", "modules")
    return RuleMaker(lambda: Periodic(lambda i, n: policy.due(i), order=0), residual=policy.residual)
