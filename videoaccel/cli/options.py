"""Options: those of a command as the fields of one value, and those that take several things."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def command(kind: type[T], run: Callable[[T], None]) -> Callable[..., None]:
    """A function for typer, with one option for each field of a dataclass.

    Args:
        kind: The dataclass; each field is annotated with its ``typer.Option`` or ``typer.Argument``. Fields that must
            be given come first.
        run: What the command does; its docstring is the command's help.
    """
    hints = get_type_hints(kind, include_extras=True)

    def call(**given: Any) -> None:
        run(kind(**given))

    parameters = [_parameter(field, hints[field.name]) for field in fields(kind)]  # type: ignore[arg-type]
    call.__doc__, call.__name__ = run.__doc__, run.__name__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def together(given: Sequence[str] | None, usual: str = "") -> str:
    """What an option with commas between its things says, given once or again: all of it.

    >>> together(["fora,sada", "soda"]), together(None, "all")
    ('fora,sada,soda', 'all')
    """
    return ",".join(given) if given else usual


def _parameter(field: Field[Any], annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
