"""The machinery with nothing changed."""

from videoaccel.adapters.methods import Rules
from videoaccel.adapters.rule import StepRule
from videoaccel.policies.off import Off


def rules(policy: Off) -> Rules:
    """Everything is computed, nothing is kept."""
    return StepRule
