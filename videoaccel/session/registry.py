"""Acceleration methods by name: the name is that of the file in ``videoaccel/policies``."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from videoaccel.common.home import expand
from videoaccel.common.plugins import class_in, names_in
from videoaccel.session.chain import Chain
from videoaccel.session.policy import Policy
from videoaccel.settings.config import config_folder, config_names, read_yaml
from videoaccel.settings.generate import TARGETS
from videoaccel.settings.method_fields import DOT, SIGN, fault, nested

METHODS = "videoaccel.policies"


def policy_names() -> list[str]:
    """All methods, in alphabetical order."""
    return names_in(METHODS)


def policy_class(name: str) -> type[Policy]:
    """The configuration class of a method.

    Raises:
        ValueError: There is no such method.
    """
    return class_in(METHODS, name, Policy, what="method")


def make_policy(name: str, **fields: Any) -> Policy:
    """A method with some of its fields set; of two methods, ``soda+sada``, with fields by method.

    Raises:
        ValueError: There is no such method or field, a value is out of range, or the two cannot be combined.

    >>> make_policy("delta_dit+sada", sada={"threshold": 0.1}).name
    'delta_dit+sada'
    """
    if not isinstance(name, str):
        raise ValueError(f"a method is a name such as 'soda', got {name!r}")
    if SIGN in name:
        return _chain(name, fields)
    found = policy_class(name)
    return _made(found, found, fields, name)


def named_method(name: str) -> tuple[str, dict[str, Any]]:
    """Method and fields by name, or from a YAML file.

    Raises:
        ValueError: There is no such method, or the file does not name one.
        FileNotFoundError: There is no such file.
    """
    if not isinstance(name, str | PathLike):
        raise ValueError(f"a method is a name such as 'soda', or a YAML file, got {name!r}")
    name = str(name)
    if name in policy_names() or SIGN in name:
        return name, {}
    path = config_folder("accel") / f"{name}.yaml" if name in config_names("accel") else expand(name)
    if path.suffix not in (".yaml", ".yml"):
        boxed = difflib.get_close_matches(name, config_names("accel"), n=1)
        if boxed and not difflib.get_close_matches(name, policy_names(), n=1, cutoff=0.8):
            raise ValueError(f"unknown method {name!r}; did you mean {boxed[0]!r}, which is in the box?")
        if name.lower() in policy_names():
            raise ValueError(f"unknown method {name!r}; did you mean {name.lower()!r}?")
        if name == "exact":
            raise ValueError("exact is a model as it is: leave the method out; 'off' runs the machinery alone")
        policy_class(name)  # says what there is
    fields = read_yaml(path)
    if not isinstance(method := fields.pop("method", None), str):
        raise ValueError(f"{path} must say its method, one of {', '.join(policy_names())}")
    return method, fields


def titled(asked: str, method: str) -> str:
    """What a method is called in reports: as it was asked for, if by the name of a configuration, and what that is.

    >>> titled("fora", "fora"), titled("uncalibrated", "fixed_linear"), titled("runs/mine.yaml", "soda")
    ('fora', 'uncalibrated (fixed_linear)', 'mine (soda)')
    """
    if asked in policy_names() or SIGN in asked:
        return method
    return f"{Path(asked).stem} ({method})"


@contextmanager
def told_by(name: str) -> Iterator[None]:
    """Name the file that a method's fields come from where they do not fit; a name that is no file adds nothing."""
    try:
        yield
    except ValueError as error:
        if Path(name).suffix not in (".yaml", ".yml"):
            raise
        raise ValueError(f"{expand(name)}: {error}") from None


def beside_file(of_file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a file and those given beside it, which win: a target over the file's; of two methods field by field.

    >>> beside_file({"period": 3, "flops_ratio": 2}, {"speedup": 1.5})
    {'period': 3, 'speedup': 1.5}
    >>> beside_file({"fora": {"period": 3, "slots": "trunk"}}, {"fora": {"period": 2}})
    {'fora': {'period': 2, 'slots': 'trunk'}}
    """
    aimed = any(target in given for target in TARGETS)
    found = {field: value for field, value in of_file.items() if not (aimed and field in TARGETS)}
    for field, value in given.items():
        both = isinstance(value, Mapping) and isinstance(found.get(field), Mapping)
        found[field] = {**found[field], **value} if both else value
    return found


def knob_of(name: str) -> tuple[str, tuple[Any, ...]]:
    """The field of a method that trades quality for speed, with values of it; of two methods the upper one's.

    Raises:
        ValueError: There is no such method, or the two cannot be combined.

    >>> knob_of("fora"), knob_of("pab+fixed_linear")[0]
    (('period', (2, 3, 4, 5, 6, 8)), 'fixed_linear.period')
    """
    if SIGN not in name:
        found = policy_class(name)
        return found.knob, found.sweep
    over = make_policy(name).parts[-1]
    return f"{over.name}{DOT}{over.knob}", over.sweep


def _chain(name: str, fields: Mapping[str, Any]) -> Policy:
    names = [part.strip() for part in name.split(SIGN)]
    found = [policy_class(part) for part in names]
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"a chain is two different methods, such as soda+sada, got {name!r}")
    given = nested(
        fields,
        owner=lambda field: next((n for n, k in zip(names, found, strict=True) if field in k.model_fields), names[0]),
    )
    if other := sorted(given.keys() - set(names)):
        raise ValueError(f"{name} has no method {other[0]!r}; give fields as {names[0]}.field or {names[1]}.field")
    parts = [(part, kind, given.get(part, {})) for part, kind in zip(names, found, strict=True)]
    made = [_made(kind, kind, own, part) for part, kind, own in parts]
    if {policy.level for policy in made} == {"steps"}:
        below = [_made(kind, kind.below, own, part) for part, kind, own in parts]
        first = below[0].level == "modules"
        made = [below[0], made[1]] if first else [made[0], below[1]]
    return Chain.of(*made)


def _made(kind: type[Policy], make: Callable[..., Policy], fields: Mapping[str, Any], name: str) -> Policy:
    try:
        return make(**fields)
    except ValidationError as error:
        raise ValueError(fault(name, kind, error)) from None
