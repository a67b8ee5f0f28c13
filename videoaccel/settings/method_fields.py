"""What methods can be told, read from their files without running these: a slip in a field is said before torch.

Only what stands beside a field's name counts here: whole numbers, numbers, switches and texts with their bounds. What a
method checks beyond that, it says itself, later and in the same words.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from videoaccel.common.package import packaged
from videoaccel.common.plugins import names_in
from videoaccel.settings.generate import TARGETS

METHODS = "videoaccel.policies"

SIGN = "+"
"""Between the names of two methods at once."""

DOT = "."
"""Between a method's name and that of its field, where there are two methods."""

_PLAIN: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_NONE = " | None"
_BOUNDS = ("ge", "gt", "le", "lt")


def check_method_fields(method: str, fields: Mapping[str, Any]) -> None:
    """Make sure that a method can be told this, as far as its file says without being run.

    Raises:
        ValueError: It has no such field, or a value is out of its bounds.

    >>> check_method_fields("fora", {"perod": 2})
    Traceback (most recent call last):
    ValueError: fora has no field 'perod'; it has period, warmup, slots, residual
    """
    kind = fields_of(method)
    try:
        kind(**fields)
    except ValidationError as error:
        raise ValueError(fault(method, kind, error)) from None


def check_targets(method: str, targets: Collection[str], *, asked: str | None = None) -> None:
    """Make sure that a method keeps these targets.

    Args:
        method: Its name; two cannot keep one together.
        targets: Names of :data:`videoaccel.settings.generate.TARGETS`.
        asked: What the method was called.

    Raises:
        ValueError: It does not; says whose they are, and what its own knob is.
    """
    if targets and SIGN in method:
        raise ValueError(
            f"`{min(targets)}` cannot be kept by {asked or method}: what the two save together is known clip by clip "
            f"only; set fields of each instead, such as --set accel_options.{method.split(SIGN)[-1].strip()}."
            f"threshold=0.1"
        )
    if missing := [name for name in targets if name not in fields_of(method).model_fields]:
        raise ValueError(_no_target(method, missing[0]))


def _no_target(method: str, target: str) -> str:
    takers = " and ".join(name for name in names_in(METHODS) if target in fields_of(name).model_fields)
    knob = f"set its {found} with accel_options" if (found := knob_in(method)) else "it has no knob"
    return f"`{target}` is a target of {takers}; {method} takes none: {knob}"


def nested(
    fields: Mapping[str, Any], *, owner: Callable[[str], str] = lambda field: "sada"
) -> dict[str, dict[str, Any]]:
    """Fields by method, from mappings or dotted names.

    Args:
        fields: As they were given.
        owner: Which method a field without one may be meant for.

    Raises:
        ValueError: A field is nobody's.

    >>> nested({"soda": {"flops_ratio": 2}, "sada.threshold": 0.1})
    {'soda': {'flops_ratio': 2}, 'sada': {'threshold': 0.1}}
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        method, dot, field = name.partition(DOT)
        if not dot and not isinstance(value, Mapping):
            raise ValueError(f"of two methods a field is one's or the other's: say whose, such as {owner(name)}.{name}")
        found.setdefault(method, {}).update({field: value} if dot else value)
    return found


@lru_cache
def _class_of(method: str) -> ast.ClassDef:
    tree = ast.parse(packaged("policies", f"{method}.py").read_text(encoding="utf-8"))
    return next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and "Policy" in map(ast.unparse, node.bases)
    )


def knob_in(method: str) -> str:
    """The field that trades quality for speed; empty if there is none."""
    told = (node for node in _class_of(method).body if isinstance(node, ast.AnnAssign))
    found = next((node.value for node in told if ast.unparse(node.target) == "knob"), None)
    return str(ast.literal_eval(found)) if found is not None else ""


@lru_cache
def fields_of(method: str) -> type[BaseModel]:
    """A model with the fields of a method; what is more than a number, a switch or a text takes anything."""
    own = _class_of(method)
    fields: dict[str, Any] = {
        ast.unparse(node.target): _field(node)
        for node in own.body
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar")
    }
    return create_model(method, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def _field(node: ast.AnnAssign) -> tuple[Any, Any]:
    """Type and bounds of a field."""
    told = ast.unparse(node.annotation)
    kind = _PLAIN.get(told.removesuffix(_NONE))
    if kind is None:
        return Any, None
    given = node.value.keywords if isinstance(node.value, ast.Call) else []
    bounds = {str(one.arg): ast.literal_eval(one.value) for one in given if one.arg in _BOUNDS and _literal(one.value)}
    return (kind | None if told.endswith(_NONE) else kind), Field(None, **bounds)


def _literal(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant)


def fault(method: str, kind: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with a method's fields, in a sentence.

    Args:
        method: What it is called.
        kind: A model with its fields.
        error: What pydantic says.
    """
    first = error.errors()[0]
    field = DOT.join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if field.partition(DOT)[0] == method:
            return f"{method} has no field {field!r}: of a single method, fields go without its name"
        if field in TARGETS:
            return _no_target(method, field)
        return f"{method} has no field {field!r}; it has {', '.join(kind.model_fields) or 'none'}"
    return f"{method}: {field or 'fields'}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
