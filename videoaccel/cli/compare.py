"""``videoaccel compare``: speed and quality of methods, side by side."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from videoaccel.cli.errors import FAILURE, INCOMPLETE
from videoaccel.cli.flags import flag
from videoaccel.cli.generate import typed
from videoaccel.cli.options import together
from videoaccel.cli.outside import MORE, found_by
from videoaccel.cli.progress import Display, calm_libraries, shown_progress
from videoaccel.cli.ranks import require_alone
from videoaccel.cli.terminal import PlainConsole, say
from videoaccel.common.extras import need
from videoaccel.common.home import expand
from videoaccel.common.reading import read_prompts
from videoaccel.common.wording import counted
from videoaccel.comparison.log import check_place
from videoaccel.comparison.values import EXACT, Values, check_counts, check_told, names_of, read_values
from videoaccel.settings.early import check_early, check_prior
from videoaccel.settings.early_methods import check_fields, check_method_name
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, merge

if TYPE_CHECKING:
    from videoaccel.comparison.compare import Comparison
    from videoaccel.comparison.table import Result

_MODEL, _RUN, _JOB, _OUTSIDE = "Model", "Comparison", "Job", "Pipelines of diffusers"
_SHARED = (
    "model", "lora", "size", "frames", "steps", "guidance", "dtype", "device", "threads", "attention", "graphs", *MORE,
)  # fmt: skip
_WIDTH, _WIDE = 200, 170  # columns: of tables where there is no terminal, and from which on all is shown


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    prompts: Annotated[
        str, typer.Option("--prompts", help="Prompts from a file, one a line; - is stdin.", metavar="FILE")
    ]
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the results; gone on with.", metavar="DIR")]
    accel: Annotated[
        list[str] | None,
        typer.Option(help="Methods, comma-separated; default all. exact is always there.", rich_help_panel=_RUN),
    ] = None
    speedup: Annotated[
        list[str] | None,
        typer.Option(help="Speed-ups at which PSNR is read off the curves, comma-separated.", rich_help_panel=_RUN),
    ] = None
    seeds: Annotated[
        list[str] | None,
        typer.Option(help="Of every prompt's clips, comma-separated. Default: 0.", rich_help_panel=_RUN),
    ] = None
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Values in place of a method's sweep, such as fora.period=2,3,4.",
            metavar="METHOD.FIELD=VALUES",
            rich_help_panel=_RUN,
        ),
    ] = None
    controls: Annotated[
        bool, typer.Option(help="Add fewer_steps and fixed_linear, which others have to beat.", rich_help_panel=_RUN)
    ] = True
    clips: Annotated[int, typer.Option(help="Clips that are timed, of the first.", rich_help_panel=_RUN)] = 4
    repeats: Annotated[int, typer.Option(help="Rounds of timing; 0 times nothing.", rich_help_panel=_RUN)] = 3
    prior: Annotated[
        str | None,
        typer.Option(help="Calibrated errors, for methods that need them.", metavar="FILE", rich_help_panel=_RUN),
    ] = None
    allow_foreign_prior: Annotated[
        bool,
        typer.Option(
            "--allow-foreign-prior",
            help="Take a prior made for other steps, size, frames, guidance or type, interpolated.",
            rich_help_panel=_RUN,
        ),
    ] = False
    keep_clips: Annotated[
        bool,
        typer.Option(
            "--keep-clips",
            help="Write every clip into clips/, for VBench or any measure; names as VBench wants them.",
            rich_help_panel=_RUN,
        ),
    ] = False
    model: Annotated[str | None, typer.Option(help="As of generate.", metavar="NAME", rich_help_panel=_MODEL)] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="LoRA weights, FILE or FILE:weight; may be given again.", metavar="FILE", rich_help_panel=_MODEL
        ),
    ] = None
    size: Annotated[str | None, typer.Option(metavar="HEIGHTxWIDTH", rich_help_panel=_MODEL)] = None
    frames: Annotated[str | None, typer.Option(metavar="N", rich_help_panel=_MODEL)] = None
    steps: Annotated[str | None, typer.Option(metavar="N", rich_help_panel=_MODEL)] = None
    guidance: Annotated[str | None, typer.Option(metavar="X", rich_help_panel=_MODEL)] = None
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", rich_help_panel=_MODEL)] = None
    device: Annotated[str | None, typer.Option(rich_help_panel=_MODEL)] = None
    threads: Annotated[str | None, typer.Option(metavar="N", rich_help_panel=_MODEL)] = None
    attention: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_MODEL)] = None
    graphs: Annotated[
        str | None,
        typer.Option(help="CUDA graphs, as of generate: auto, on, off.", metavar="NAME", rich_help_panel=_MODEL),
    ] = None
    args: Annotated[
        list[str] | None,
        typer.Option(
            "--arg", help="An argument of the pipeline's call.", metavar="NAME=VALUE", rich_help_panel=_OUTSIDE
        ),
    ] = None
    negative_prompt: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_OUTSIDE)] = None
    images: Annotated[list[str] | None, typer.Option("--image", metavar="FILE", rich_help_panel=_OUTSIDE)] = None
    video: Annotated[str | None, typer.Option(metavar="FILE", rich_help_panel=_OUTSIDE)] = None
    pipeline_class: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_OUTSIDE)] = None
    variant: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_OUTSIDE)] = None
    trust_remote_code: Annotated[bool | None, typer.Option("--trust-remote-code", rich_help_panel=_OUTSIDE)] = None
    offload: Annotated[bool | None, typer.Option("--offload/--no-offload", rich_help_panel=_OUTSIDE)] = None
    group_offload: Annotated[bool | None, typer.Option("--group-offload", rich_help_panel=_OUTSIDE)] = None
    picture: Annotated[bool, typer.Option(help="Draw speed-quality.png and methods.png.", rich_help_panel=_JOB)] = True
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_JOB)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_JOB)] = False


def compare(options: Options) -> None:
    """Compare methods: speed against quality, all in one process on the same clips. A stopped comparison goes on."""
    o = options
    require_alone("compare")
    texts = _prompts(o.prompts)
    seeds = _numbers("--seeds", together(o.seeds, "0"), int)
    speedups = _numbers("--speedup", together(o.speedup), float)
    given = typed({name: getattr(o, name) for name in _SHARED}, _SHARED)
    settings = merge([Layer({**given, "prompt": texts}, flag)])
    methods = [name.strip() for name in together(o.accel, "all").split(",") if name.strip()]
    values = read_values(o.setting or [])
    _check_early(o, settings, methods, values)
    check_counts(seeds=seeds, speedups=speedups, timed_clips=o.clips, repeats=o.repeats)
    found_by(settings, command="compare")
    with shown_progress(quiet=o.quiet) as display:
        from videoaccel.comparison.compare import compare_settings  # torch and all
        from videoaccel.planning.prior import Prior

        calm_libraries(quiet=o.quiet)
        try:
            comparison = compare_settings(
                settings,
                seeds=seeds,
                listener=display,
                methods=methods,
                out=expand(o.out),
                speedups=speedups,
                values=values,
                controls=o.controls,
                prior=None if o.prior is None else Prior.load(expand(o.prior)),
                foreign_prior=o.allow_foreign_prior,
                timed_clips=o.clips,
                repeats=o.repeats,
                keep_clips=o.keep_clips,
                picture=o.picture,
                command=shlex.join(["videoaccel", *sys.argv[1:]]),
            )
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, and SIGTERM
            _stopped(display, o.out)
            raise
    _show(comparison)
    if comparison.errors:
        count = counted(len(comparison.errors), "setting")
        say(f"videoaccel: {count} without a result, see the errors in {comparison.files[0]}", err=True)
        others = [result for result in comparison.results if result.error is None and result.method != EXACT]
        raise typer.Exit(INCOMPLETE if others else FAILURE)


def _check_early(o: Options, settings: GenerateSettings, methods: Sequence[str], values: Mapping[str, Values]) -> None:
    check_early(settings, writes=False)
    need("measuring quality", "torchmetrics", "eval")
    for name in methods:
        if name not in ("exact", "all"):
            check_method_name(name)
            check_fields(name, {})
    check_told(names_of(methods, controls=o.controls), values)
    if o.prior is not None:
        check_prior(o.prior, settings, foreign=o.allow_foreign_prior)
    check_place(expand(o.out))


def _stopped(display: Display, out: str) -> None:
    if (expand(out) / "rows.jsonl").exists():
        display.note(f"what was measured is in {out}; the same command goes on from there")


def _prompts(name: str) -> list[str]:
    return read_prompts(name)


def _numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{option} takes {what} with commas between, got {text!r}") from None


def _show(comparison: Comparison) -> None:
    console = PlainConsole()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_results(comparison.results, wide=console.width >= _WIDE))
    if comparison.at:
        console.print(_at_speedups(comparison))
    for line in _said("no result", [(result, result.error) for result in comparison.errors]):
        console.print(line, soft_wrap=True)
    for line in _said("in a coarser form, for memory", [(result, result.coarser) for result in comparison.results]):
        console.print(line, soft_wrap=True)
    console.print("\n".join(f"wrote {path}" for path in comparison.files), soft_wrap=True)
    for note in comparison.notes:
        typer.echo(f"videoaccel: {note}", err=True)


def _said(what: str, pairs: Sequence[tuple[Result, str | None]]) -> Iterator[str]:
    """What there is to say of settings; those of one method of which the same is said share a line."""
    found: dict[tuple[str, str], list[str]] = {}
    for result, text in pairs:
        if text is not None:
            found.setdefault((result.method, text), []).append(result.setting)
    for (method, text), settings in found.items():
        yield f"{what}: {' '.join([method, ', '.join(settings)]).strip()}: {text}"


def _results(results: Sequence[Result], *, wide: bool) -> Table:
    """One line a setting; a narrow terminal is shown less."""
    world = list(dict.fromkeys(name for result in results for name in result.world)) if wide else []
    replayed = ("as graphs",) if any(result.replayed is not None for result in results) else ()
    table = Table(title="speed and quality against exact")
    for name in ("method", "setting"):
        table.add_column(name, no_wrap=True)
    more = ("quartiles", "GiB", "worst PSNR") if wide else ()
    for name in ("seconds", "faster", "fewer FLOPs", "PSNR", "SSIM", *replayed, *more, *world):
        table.add_column(name, justify="right")
    for result in results:
        ends = (result.speedup_latency_low, result.speedup_latency_high)
        cells = [
            _number(result.latency_s, 3),
            _number(result.speedup_latency, 2),
            _number(result.speedup_flops, 2),
            "error" if result.error else _number(result.psnr, 2),
            _number(result.ssim, 4),
            *([_share(result.replayed)] if replayed else []),
            "-".join(_number(end, 2) for end in ends if end is not None),
            _number(None if result.peak_memory is None else result.peak_memory / 2**30, 2),
            _number(result.worst_psnr, 2),
            *(_number(result.world.get(name), 2) for name in world),
        ]
        shown = cells if wide else cells[: len(cells) - 3]
        table.add_row(result.method, result.setting, *shown, style="red" if result.error else None)
    return table


def _at_speedups(comparison: Comparison) -> Table:
    speedups = list(dict.fromkeys(at.speedup for at in comparison.at))
    found = {(at.method, at.by, at.speedup): at.text for at in comparison.at}
    table = Table(title="PSNR (dB) at a speed-up, read off each method's own curve")
    for name in ("method", "by"):
        table.add_column(name, no_wrap=True)
    for speedup in speedups:
        table.add_column(f"{speedup:g}x", justify="right", no_wrap=True)
    for method, by in dict.fromkeys((at.method, at.by) for at in comparison.at):
        table.add_row(method, by, *(found[method, by, speedup] for speedup in speedups))
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
