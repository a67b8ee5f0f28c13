"""All commands together, and the way from arguments to an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from videoaccel import __version__
from videoaccel.cli import (
    cache,
    calibrate,
    cancel,
    compare,
    doctor,
    evaluate,
    generate,
    methods,
    models,
    plan,
    render,
    render_options,
    report,
    status,
    train_router,
    verify,
)
from videoaccel.cli.errors import exit_code
from videoaccel.cli.options import command
from videoaccel.cli.terminal import say
from videoaccel.common.versions import check_versions

DEBUG = "--debug"
_RESUMED = ("render", "compare", "calibrate", "train-router", "evaluate")


def build_app() -> typer.Typer:
    """The command line as typer sees it."""
    app = typer.Typer(
        name="videoaccel",
        help="Make videos with OpenSora-style diffusion transformers, fast and honestly measured.",
        epilog='Start with: videoaccel generate "a red circle moves left on a dark blue background" -o out.mp4',
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    app.command("generate")(generate.command())
    app.command("render")(command(render_options.Options, render.render))
    app.command("status")(status.status)
    app.command("cancel")(cancel.cancel)
    app.command("report")(report.report)
    app.command("compare")(command(compare.Options, compare.compare))
    app.command("calibrate")(calibrate.command())
    app.command("train-router")(train_router.command())
    app.command("plan")(plan.command())
    app.command("evaluate")(evaluate.evaluate)
    app.command("verify")(verify.command())
    app.command("models")(models.models)
    app.command("methods")(methods.methods)
    app.command("doctor")(doctor.command())
    app.add_typer(cache.build(), name="cache")
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        0 if it worked, 2 for bad input, 1 for failures, 3 if part of the work has no result, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    given, debug = _without_debug(arguments)
    return exit_code(
        lambda: build_app()(given, prog_name="videoaccel", standalone_mode=False),
        debug=debug,
        resumes=bool(given) and given[0] in _RESUMED,
    )


def _version(wanted: bool) -> None:
    if wanted:
        say(f"videoaccel {__version__}, {_torch()}")
        raise typer.Exit


def _torch() -> str:
    """Which torch there is and what it computes on. Imported, since the files of a broken one say nothing."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"without torch ({' '.join(str(error).split())})"
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"torch {torch.__version__} on {', '.join(devices) or 'the CPU'}"


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show tracebacks; goes anywhere in a command.")] = False,
) -> None:
    # Both are dealt with before a command runs: see _version and run.
    assert not (version or debug)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}", err=True)
        check_versions()


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """``--debug`` is for every command, wherever it stands (but behind ``--`` it is a prompt)."""
    given = list(arguments)
    end = given.index("--") if "--" in given else len(given)
    head = [argument for argument in given[:end] if argument != DEBUG]
    return head + given[end:], len(head) < end
