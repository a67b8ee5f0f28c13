"""``videoaccel report``: one page from results."""

from __future__ import annotations

from typing import Annotated

import typer

from videoaccel.cli.terminal import say


def report(
    results: Annotated[
        list[str],
        typer.Argument(help="Folders of compare and render, results.json of evaluate, priors.", metavar="RESULT"),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the report.", metavar="DIR")] = "report",
    title: Annotated[str | None, typer.Option(help="Of the page; by default it says what is in it.")] = None,
) -> None:
    """Write one self-contained page from results, with JSON and CSV beside it."""
    from videoaccel.reporting.report import report as write

    for path in write(results, out, title=title):
        say(f"wrote {path}")
