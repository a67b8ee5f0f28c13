"""``videoaccel cache``: encoded prompts and measured costs on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from videoaccel.cli.terminal import say
from videoaccel.common.home import place
from videoaccel.common.wording import as_bytes, counted

_DAY = 86400  # seconds


def build() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(
        help="Look at, or clear, the prompts that --text-cache keeps and the times that plans were made with.",
        no_args_is_help=True,
    )
    app.command("list")(show)
    app.command("clear")(clear)
    return app


def show(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """List what is kept, the newest first."""
    from videoaccel.planning.costs_cache import CostsCache
    from videoaccel.text.cache import TextCache

    cache, costs = TextCache(), CostsCache()
    entries, timed = cache.entries(), costs.entries()
    if as_json:
        data: dict[str, Any] = {"folder": str(cache.folder), "entries": [entry._asdict() for entry in entries]}
        data["costs"] = {"folder": str(costs.folder), "entries": [entry._asdict() for entry in timed]}
        say(json.dumps(data, indent=2))
        return
    for entry in entries:
        prompt = "(damaged)" if entry.prompt is None else entry.prompt
        say(_line(entry.size, entry.age, prompt))
    total = as_bytes(sum(entry.size for entry in entries))
    say(f"{counted(len(entries), 'prompt')}, {total} in {place(cache.folder)}")
    for time in timed:
        say(_line(time.size, time.age, _timed(time.key)))
    say(f"{counted(len(timed), 'measurement')} of costs in {place(costs.folder)}")


def clear() -> None:
    """Remove them all."""
    from videoaccel.planning.costs_cache import CostsCache
    from videoaccel.text.cache import TextCache

    cache, costs = TextCache(), CostsCache()
    say(f"{counted(cache.clear(), 'prompt')} removed from {place(cache.folder)}")
    say(f"{counted(costs.clear(), 'measurement')} of costs removed from {place(costs.folder)}")


def _line(size: int, age: float, text: str) -> str:
    return f"{as_bytes(size):>10}  {age / _DAY:6.1f} days  {text}"


def _timed(key: Mapping[str, Any] | None) -> str:
    if key is None:
        return "(damaged)"
    shape = "x".join(map(str, key.get("latent", [])))
    threads = counted(key.get("threads", 1), "thread")
    dtype = str(key.get("dtype")).removeprefix("torch.")
    rows = counted(key.get("rows", 1), "row")
    if key.get("unit") == "flops":
        return f"{key.get('network')}, FLOPs: latent {shape}, {rows}"
    return f"{key.get('network')} on {key.get('device')}, {threads}: latent {shape}, {rows}, {dtype}"
