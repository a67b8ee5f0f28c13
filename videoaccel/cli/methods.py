"""``videoaccel methods``: what can accelerate."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from videoaccel.cli.terminal import PlainConsole


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its fields.", metavar="NAME")] = None,
) -> None:
    """List acceleration methods, or the fields of one."""
    from rich.table import Table

    from videoaccel.session.registry import policy_class, policy_names
    from videoaccel.settings.config import config_names

    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    if name is None:
        for title in ("method", "knob", "prior", "what it does"):
            table.add_column(title)
        for method in policy_names():
            found = policy_class(method)
            first = (found.__doc__ or "").splitlines()[0]
            table.add_row(method, found.knob or "-", "yes" if found.needs else "no", first)
        console.print(table)
        console.print("\nvideoaccel methods NAME shows the fields of one; --set accel_options.FIELD=VALUE sets them.")
        console.print(f"In the box, with fields set, for --accel: {', '.join(config_names('accel'))}.")
        console.print("Two at once: --accel soda+sada, one that decides about steps over one about what is in them.")
        return
    found = policy_class(name)
    for title in ("field", "default", "values", "what it is"):
        table.add_column(title)
    for field, about in found.model_fields.items():
        values = ", ".join(str(value) for value in found.sweep) if field == found.knob else _kind(about.annotation)
        default = "-" if about.default is None else str(about.default)
        table.add_row(field, default, values, about.description or "")
    console.print((found.__doc__ or "").strip().split("\n\n")[0] + "\n", markup=False)
    console.print(table)


def _kind(annotation: Any) -> str:
    """What a field takes, in words: names, or the kind of value.

    >>> _kind(Literal["a", "b"] | int | None), _kind(tuple[float, float]), _kind(Annotated[float, "seconds"])
    ('a, b, int', 'tuple[float, float]', 'float')
    """
    within = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, within))
    if get_origin(annotation) is Annotated:
        return _kind(within[0])
    if get_origin(annotation) in (Union, UnionType):
        return ", ".join(_kind(one) for one in within if one is not NoneType)
    return annotation.__name__ if isinstance(annotation, type) and not within else str(annotation)
