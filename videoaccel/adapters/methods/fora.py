"""FORA with one residual: the output of the last computed evaluation is held."""

from videoaccel.adapters.methods import Rules, only_outputs
from videoaccel.adapters.periodic import Periodic
from videoaccel.policies.fora import Fora


def rules(policy: Fora) -> Rules:
    """The published period and warm-up."""
    only_outputs(policy, "slots", "modules")
    return lambda: Periodic(lambda i, n: policy.due(i), order=0)
