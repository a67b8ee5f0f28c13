"""``videoaccel status``: where a render stands, from another shell or another machine."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from videoaccel.cli.render_progress import jobs_table, passed_over, status_table
from videoaccel.cli.terminal import PlainConsole, say
from videoaccel.common.home import expand

if TYPE_CHECKING:
    from videoaccel.rendering.folder import RenderFolder
    from videoaccel.rendering.state import Status

_EVERY = 2.0  # seconds
_WIDTH = 200  # columns, where there is no terminal


def status(
    folder: Annotated[str, typer.Argument(help="Folder of a render.", metavar="DIR")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on until nothing is left to do.")] = False,
    jobs: Annotated[bool, typer.Option("--jobs", help="List every job, with its identity and state.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show where a render stands; writes nothing."""
    from videoaccel.rendering.folder import RenderFolder
    from videoaccel.rendering.state import read_status

    if jobs and watch:
        raise ValueError("--jobs lists them once; leave out --watch")
    place = RenderFolder(expand(folder))
    if as_json:
        say(json.dumps(read_status(place).as_data(), indent=2, ensure_ascii=False))
        return
    console, found = PlainConsole(), read_status(place)
    if not console.is_terminal:
        console.width = _WIDTH
    if watch:
        found = _watched(console, place, found)
    if not (watch and console.is_terminal):
        console.print(status_table(found))
    if jobs:
        console.print(jobs_table(found))
    if found.passed_over:
        console.print(Text(passed_over(found)), soft_wrap=True)


def _watched(console: Console, place: RenderFolder, found: Status) -> Status:
    """Look again and again until nothing is left to do or nobody is at it, and show that on a terminal; the last look.

    Raises:
        FileNotFoundError: The folder was removed meanwhile.
    """
    from videoaccel.rendering.state import read_status

    live = Live(status_table(found), console=console, auto_refresh=False)
    with live if console.is_terminal else nullcontext():
        while found.open and found.workers:
            time.sleep(_EVERY)
            if not place.is_one():
                raise FileNotFoundError(f"{place.root} was removed, or holds no render any more")
            found = read_status(place)
            live.update(status_table(found), refresh=live.is_started)
    return found
