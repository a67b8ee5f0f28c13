"""``videoaccel evaluate``: what clips are worth."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from videoaccel.cli.errors import INCOMPLETE
from videoaccel.cli.options import together
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.terminal import PlainConsole, say
from videoaccel.common.extras import need
from videoaccel.common.home import expand
from videoaccel.common.launcher import first_started
from videoaccel.common.reading import parse_colour
from videoaccel.common.wording import counted
from videoaccel.evaluation.places import check_place
from videoaccel.settings.early import check_reader_name

if TYPE_CHECKING:
    from videoaccel.evaluation.evaluate import Evaluation
    from videoaccel.evaluation.table import MetricResult

_WIDTH = 160


def evaluate(
    folder: Annotated[str, typer.Argument(help="Folder of clips (mp4, gif, ...) or of folders of frames.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results; gone on with.", metavar="DIR")],
    reference: Annotated[
        str | None, typer.Option(help="Clips of the same names that these should equal.", metavar="DIR")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="vbench, fidelity, demo, all, or metrics; comma-separated. Default: all.", metavar="NAMES"),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="VBench_full_info.json, a JSON object {file: prompt}, or lines of text.", metavar="FILE"),
    ] = None,
    backbones: Annotated[
        str | None,
        typer.Option(help="Folder of networks; default VBENCH_CACHE_DIR, then ~/.cache/vbench.", metavar="DIR"),
    ] = None,
    reader: Annotated[str, typer.Option(help="pyav or decord.")] = "pyav",
    ground: Annotated[
        str, typer.Option(help="Colour below what is transparent: a name or #rrggbb.", metavar="COLOUR")
    ] = "white",
    device: Annotated[str, typer.Option(help="Where networks run.")] = "cpu",
    official: Annotated[
        str | None,
        typer.Option(help="A Python with the vbench package, for dimensions not built in.", metavar="PYTHON"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Measure clips: fidelity to references, VBench's dimensions, the demo world's sentences."""
    quiet = quiet or not first_started()
    for path in (folder, reference, prompts):
        if path is not None and not expand(path).exists():
            raise FileNotFoundError(f"{path} does not exist")
    need("evaluating", "torchmetrics", "eval")
    check_reader_name(reader)
    if reader == "decord":
        need("--reader decord", "decord", "decord")
    parse_colour(ground)
    check_place(expand(out))
    with shown_progress(quiet=quiet) as display:
        from videoaccel.evaluation import evaluate as evaluation

        calm_libraries(quiet=quiet)
        found = evaluation.evaluate(
            expand(folder),
            out=expand(out),
            reference=None if reference is None else expand(reference),
            suite=[name.strip() for name in together(suite, "all").split(",") if name.strip()],
            prompts=None if prompts is None else expand(prompts),
            backbones=None if backbones is None else expand(backbones),
            reader=reader,
            ground=ground,
            device=device,
            official=official,
            command=shlex.join(["videoaccel", *sys.argv[1:]]),
            listener=display,
            note=display.note,
        )
    if found.files:
        _show(found)
    if found.failures:
        say(f"videoaccel: {counted(len(found.failures), 'clip')} could not be measured", err=True)
        raise typer.Exit(1)
    if not found.complete:
        raise typer.Exit(INCOMPLETE)
    if not any(result.measured for result in found.results):
        say("videoaccel: nothing was measured; see why above", err=True)
        raise typer.Exit(1)


def _show(found: Evaluation) -> None:
    from videoaccel.evaluation.table import by_reason, lacking_lines

    console = PlainConsole()
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(title="scores")
    for name in ("metric", "score", "clips", "worst clip", "its value"):
        table.add_column(name, justify="left" if name in ("metric", "worst clip") else "right", overflow="fold")
    for result in found.results:
        table.add_row(*_cells(result))
    if found.results:
        console.print(table)
    if found.totals:
        parts = [f"{name} {_number(found.totals[name])}" for name in ("quality", "semantic", "total")]
        reason = f" (withheld: {found.totals['withheld']})" if found.totals.get("withheld") else ""
        console.print(f"VBench: {', '.join(parts)}{reason}", soft_wrap=True)
    for line in lacking_lines(found.not_run):
        console.print(f"not run: {line}", soft_wrap=True)
    for line in found.not_applicable:
        console.print(f"not applicable: {line}", soft_wrap=True)
    for clip, reasons in found.failures.items():
        for reason, names in by_reason(reasons).items():
            console.print(f"failed: {clip}: {reason} ({', '.join(names)})", soft_wrap=True)
    if found.resumed:
        total = sum(len(rows) for rows in found.rows.values())
        console.print(f"{found.resumed} of {total} measurements were there already; --out NEW measures all anew")
    console.print("\n".join(f"wrote {path}" for path in found.files), soft_wrap=True)


def _cells(result: MetricResult) -> list[str]:
    unit = f" {result.unit}" if result.unit else ""
    score = _number(result.score)
    if result.score is None and result.score_of_measured is not None:
        score = f"withheld ({_number(result.score_of_measured)} of those measured)"
    clips = str(result.measured)
    for count, what in ((result.failed, "failed"), (result.not_applicable, "n/a"), (result.identical, "identical")):
        clips += f", {count} {what}" if count else ""
    worst = "identical" if result.worst and result.worst_value is None else _number(result.worst_value)
    return [f"{result.title}{unit and ','}{unit}", score, clips, result.worst or "", worst if result.worst else ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
