"""``videoaccel report``: one page from results."""

from __future__ import annotations

from typing import Annotated

import typer

from videoaccel.cli.progress import shown_progress
from videoaccel.cli.terminal import say


def report(
    results: Annotated[
        list[str],
        typer.Argument(help="Folders of compare and render, results.json of evaluate, priors.", metavar="RESULT"),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the report.", metavar="DIR")] = "report",
    title: Annotated[str | None, typer.Option(help="Of the page; by default it says what is in it.")] = None,
    quality: Annotated[
        bool, typer.Option(help="Measure rendered clips by methods against their exact twins, which reads both.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Write one self-contained page from results, with JSON and CSV beside it."""
    from videoaccel.reporting.report import no_curves
    from videoaccel.reporting.report import report as write

    if (missing := no_curves()) is not None:  # before what takes long: whoever wants them can still stop
        say(f"videoaccel: {missing}", err=True)
    with shown_progress(quiet=quiet) as display:
        written = write(results, out, title=title, quality=quality, listener=display)
    for path in written:
        say(f"wrote {path}")
