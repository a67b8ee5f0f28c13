"""What methods can be told, read from their files without running these: a slip in a field is said before torch.

Only what stands beside a field's name counts here: whole numbers, numbers, switches and texts with their bounds. What a
method checks beyond that, it says itself, later and in the same words.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from videoaccel.common.package import packaged

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


@lru_cache
def fields_of(method: str) -> type[BaseModel]:
    """A model with the fields of a method; what is more than a number, a switch or a text takes anything."""
    tree = ast.parse(packaged("policies", f"{method}.py").read_text(encoding="utf-8"))
    own = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and "Policy" in map(ast.unparse, node.bases)
    )
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
        return f"{method} has no field {field!r}; it has {', '.join(kind.model_fields) or 'none'}"
    return f"{method}: {field or 'fields'}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
