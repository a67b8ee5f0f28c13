"""Acceleration methods by name: the name is that of the file in ``videoaccel/policies``."""

import difflib
import importlib
import pkgutil
from typing import Any

from pydantic import ValidationError

from videoaccel import policies
from videoaccel.policy import Policy


def policy_names() -> list[str]:
    """All methods, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(policies.__path__) if not module.name.startswith("_"))


def policy_class(name: str) -> type[Policy]:
    """The configuration class of a method.

    Raises:
        ValueError: There is no such method.
    """
    if name not in policy_names():
        near = difflib.get_close_matches(name, policy_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(policy_names())}"
        raise ValueError(f"unknown method {name!r}; {hint}")
    module = importlib.import_module(f"videoaccel.policies.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Policy) and value.__module__ == module.__name__
    )
    return found


def make_policy(name: str, **fields: Any) -> Policy:
    """A method with some of its fields set.

    Raises:
        ValueError: There is no such method or field, or a value is out of range.
    """
    found = policy_class(name)
    try:
        return found(**fields)
    except ValidationError as error:
        raise ValueError(_sentence(name, found, error)) from None


def _sentence(name: str, found: type[Policy], error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(found.model_fields) or "none"
        return f"{name} has no field {field!r}; it has {known}"
    return f"{name}: {field or 'fields'}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
