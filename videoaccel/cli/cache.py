"""``videoaccel cache``: encoded prompts on disk."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from videoaccel.wording import counted

_DAY = 86400  # seconds


def build() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(help="Look at, or clear, the encoded prompts that --text-cache keeps.", no_args_is_help=True)
    app.command("list")(show)
    app.command("clear")(clear)
    return app


def show(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """List the prompts that are kept, the newest first."""
    from videoaccel.text_cache import TextCache

    cache = TextCache()
    entries = cache.entries()
    if as_json:
        typer.echo(
            json.dumps({"folder": str(cache.folder), "entries": [entry._asdict() for entry in entries]}, indent=2)
        )
        return
    for entry in entries:
        prompt = "(damaged)" if entry.prompt is None else entry.prompt
        typer.echo(f"{entry.size / 2**20:8.2f} MiB  {entry.age / _DAY:6.1f} days  {prompt}")
    total = sum(entry.size for entry in entries) / 2**20
    typer.echo(f"{counted(len(entries), 'prompt')}, {total:.2f} MiB in {cache.folder}")


def clear() -> None:
    """Remove them all."""
    from videoaccel.text_cache import TextCache

    cache = TextCache()
    typer.echo(f"{counted(cache.clear(), 'prompt')} removed from {cache.folder}")
