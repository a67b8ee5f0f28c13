"""``videoaccel methods``: what can accelerate."""

from __future__ import annotations

from typing import Annotated

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
        values = ", ".join(str(value) for value in found.sweep) if field == found.knob else _kind(str(about.annotation))
        default = "-" if about.default is None else str(about.default)
        table.add_row(field, default, values, about.description or "")
    console.print((found.__doc__ or "").strip().split("\n\n")[0] + "\n", markup=False)
    console.print(table)


def _kind(annotation: str) -> str:
    return annotation.replace("typing.", "").replace("<class '", "").replace("'>", "").replace("NoneType", "None")
