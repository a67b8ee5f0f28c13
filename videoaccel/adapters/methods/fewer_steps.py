"""The control: the same scheduler with fewer steps, by the argument that says how many."""

from collections.abc import Mapping
from typing import Any

from videoaccel.adapters.methods import Rules
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.policies.fewer_steps import FewerSteps

ARGUMENT = "num_inference_steps"
FIXED = ("timesteps", "sigmas")


def rules(policy: FewerSteps) -> Rules:
    """A share of the steps that are asked for."""
    return _Fewer(policy)


class _Fewer(RuleMaker):
    def __init__(self, policy: FewerSteps) -> None:
        super().__init__(StepRule)
        self._policy, self._note = policy, ""

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = arguments.get(ARGUMENT)
        if not isinstance(asked, int):
            raise ValueError(f"fewer_steps needs a pipeline with an argument {ARGUMENT}")
        if given := [name for name in FIXED if arguments.get(name) is not None]:
            raise ValueError(f"fewer_steps cannot leave out steps that {given[0]} names")
        steps = self._policy.steps(asked)
        self._note = f"{steps} steps of {asked}"
        return {ARGUMENT: steps}

    @property
    def note(self) -> str | None:
        return self._note
