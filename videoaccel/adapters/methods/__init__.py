"""What methods say about evaluations, one file a method, found by the method's name."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from types import ModuleType

from torch import Tensor

from videoaccel.adapters.planned import Step
from videoaccel.adapters.rule import StepRule
from videoaccel.session.policy import Policy
from videoaccel.settings.method_fields import SIGN

Rules = Callable[[], StepRule]
"""Makes the rule of one segment."""


RuleFrom = Callable[[Mapping[str, Tensor]], StepRule]
"""Makes the rule of one segment from what was measured."""


@cache
def available() -> tuple[str, ...]:
    """Methods that can be had on pipelines of diffusers, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def rules_of(policy: Policy) -> Rules:
    """How a method decides about evaluations of networks whose insides it does not see.

    Raises:
        ValueError: It has to see them, or a field of it is for those who do.
    """
    rules: Rules = _module(policy).rules(policy)
    return rules


def plans(policy: Policy) -> bool:
    """Whether a method rests on what was measured.

    Raises:
        ValueError: It has to see inside networks.
    """
    return hasattr(_module(policy), "schedule") or hasattr(_module(policy), "rule_from")


def schedule_of(policy: Policy) -> Callable[[Mapping[str, Tensor], int], Sequence[Step]]:
    """From tables for n evaluations, and n, to what becomes of each.

    Raises:
        ValueError: A field of the method is for networks whose insides are seen.
    """
    module = _module(policy)
    if hasattr(module, "check"):
        module.check(policy)
    return partial(module.schedule, policy)


def watches_of(policy: Policy) -> frozenset[str]:
    """Signals of a network's blocks that a method decides by, see :mod:`videoaccel.adapters.blocks`.

    Raises:
        ValueError: It has to see more of the inside.
    """
    return getattr(_module(policy), "WATCHES", frozenset())


def tables_of(policy: Policy) -> tuple[str, ...]:
    """Tables that a method needs beside those that any measured generation gives."""
    module = _module(policy)
    return module.tables(policy) if hasattr(module, "tables") else getattr(module, "TABLES", ())


def rule_from(policy: Policy) -> RuleFrom | None:
    """How a method that decides while running starts from what was measured; None of one that plans beforehand.

    Raises:
        ValueError: A field of the method is for networks whose insides are seen.
    """
    module = _module(policy)
    return module.rule_from(policy) if hasattr(module, "rule_from") else None


def blind() -> list[str]:
    """Methods that can be had on any network: nothing inside is looked at."""
    return [name for name in available() if not hasattr(import_module(f"{__name__}.{name}"), "WATCHES")]


def _module(policy: Policy) -> ModuleType:
    if SIGN in policy.name:
        known = ", ".join(available())
        raise ValueError(f"{policy.name}: a pipeline of diffusers has one method at a time; these can be had: {known}")
    if policy.name not in available():
        raise ValueError(
            f"{policy.name} has to look into the network; on pipelines of diffusers these can be had: "
            f"{', '.join(available())}"
        )
    return import_module(f"{__name__}.{policy.name}")


def only_outputs(policy: Policy, field: str, inside: str) -> None:
    """Refuse a field's value that is for networks whose insides are seen, if it was asked for.

    Raises:
        ValueError: It was.
    """
    if field in policy.model_fields_set and getattr(policy, field) == inside:
        raise ValueError(
            f"{policy.name} with `{field}={inside}` has to look into blocks; of pipelines that are not ours what all "
            "blocks add, or the output, is forecast as one"
        )
