"""What reaches the terminal: names and prompts of others bring no escape sequences with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from videoaccel.common.borders import for_terminal


def say(text: str, *, err: bool = False) -> None:
    """Print a line, as `typer.echo`."""
    typer.echo(for_terminal(text), err=err)


class PlainConsole(Console):
    """A console that colours what we colour, and shows what texts bring along as it is; no text is markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console`; before the text is measured."""
        return super().render_str(for_terminal(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `rich.console.Console`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(for_terminal(segment.text), segment.style)
