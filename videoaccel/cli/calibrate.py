"""``videoaccel calibrate``: measures what methods need to know, and merges what several machines measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.flags import flag, shown
from videoaccel.cli.generate import keyword, parameter, shared_values, typed
from videoaccel.cli.options import together
from videoaccel.cli.outside import MORE, found_by
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import is_rank, rank, start_again
from videoaccel.cli.terminal import say
from videoaccel.common.extras import need
from videoaccel.common.files import check_file
from videoaccel.common.home import expand
from videoaccel.common.launcher import ranks_started
from videoaccel.common.wording import as_bytes, counted
from videoaccel.settings.calibrate import PROMPTS, SHARED, CalibrateSettings
from videoaccel.settings.early import check_early
from videoaccel.settings.early_methods import check_method_name
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, merge
from videoaccel.settings.refused import made_of
from videoaccel.settings.tensor_heads import PRIOR, check_format

if TYPE_CHECKING:
    from videoaccel.outside.find import Found
    from videoaccel.planning.prior import Prior

PANEL = "Calibration"
_OWN = (
    "seed",
    "samples",
    "first",
    "replay_samples",
    "fit_samples",
    "fit_search",
    "methods",
    "memory",
    "backbones",
    "output",
)


def command() -> Callable[..., None]:
    """The command, with the options of generate that say for what the prior is made."""

    def calibrate(**options: Any) -> None:
        """Measure the errors that methods plan with; stopped, the same command goes on where it was.

        The file holds no times: it can be made on one machine and used on another.
        """
        _calibrate(options)

    shared = [parameter(name) for name in (*SHARED, *MORE) if shown(name)["flag"] != "-"]
    parameters = [_files(), *shared, *map(_own, _OWN), *_others()]
    calibrate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    calibrate.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return calibrate


def _calibrate(options: dict[str, Any]) -> None:
    options["methods"] = together(options["methods"]) or None
    if options["merge"] or options["files"]:
        _merge(options)
        return
    _check_early(options)
    if (found := _found(options)) is not None:
        _outside(found, options)
        return
    for name in ("fit_samples", "fit_search", "backbones"):
        if options[name]:
            need(f"--{name.replace('_', '-')}", "torchmetrics", "eval")
    settings = _settings(options)
    _start_ranks(options, settings.device)
    quiet = options["quiet"] or rank() > 0
    with shown_progress(quiet=quiet) as display:
        from videoaccel.calibration.calibrate import calibrate  # torch and all

        calm_libraries(quiet=quiet)
        prior = calibrate(settings, listener=display, note=(lambda text: None) if quiet else display.note)
    if not quiet:
        say(_summary(prior, str(prior.path)))


def _check_early(options: Mapping[str, Any]) -> None:
    check_early(merge([Layer(typed(options, SHARED), flag)]), writes=False)
    for name in (options["methods"] or "").split(","):
        if name.strip():
            check_method_name(name.strip())
    if options["output"] is not None:
        check_file(expand(options["output"]))
    if options["output"] is not None and (out := expand(options["output"])).exists():
        check_format(out, PRIOR, what="no prior")  # of what for, is seen later


def _found(options: Mapping[str, Any]) -> Found | None:
    """The pipeline of diffusers that is to be measured; None if it is one of our own models.

    Raises:
        ValueError: One of our own is, and something is told that is for the others.
    """
    given = typed(options, ("model", *MORE))
    found = found_by(merge([Layer(given, flag)]), command="calibrate")
    if found is None and options["curve"] is not None:
        raise ValueError("--curve is for pipelines of diffusers; of our own models --replay-samples says on how many")
    return found


def _outside(found: Found, options: Mapping[str, Any]) -> None:
    """Measure a pipeline of diffusers."""
    from videoaccel.calibration.pipeline_job import ONLY_OURS  # torch and all

    own = [name for name in ONLY_OURS if options[name] is not None]
    if own:
        raise ValueError(f"--{own[0].replace('_', '-')} is for calibrating our own models")
    values = shared_values(options, shared=(*SHARED, *MORE, "seed"), command="calibrate")
    prompts = values.pop("prompts", PROMPTS)
    kept = {name: value for name, value in values.items() if value is not None}
    _start_ranks(options, kept.get("device"))
    quiet = options["quiet"] or rank() > 0
    with shown_progress(quiet=quiet) as display:
        from videoaccel.calibration.pipeline_job import calibrate_model  # torch and all
        from videoaccel.outside.order import reads_text

        calm_libraries(quiet=quiet)
        told = {"prompt": tuple(prompts)} if options["prompts"] or reads_text(found) else {}
        prior = calibrate_model(
            GenerateSettings(**kept, **told),
            found,
            samples=_number(options["samples"], 10),
            out=options["output"],
            curve=None if options["curve"] is None else _number(options["curve"], 0),
            fit=None if options["fit_samples"] is None else _number(options["fit_samples"], 0),
            listener=display,
        )
    if not quiet:
        say(_summary(prior, str(prior.path)))


def _number(given: int | None, usual: int) -> int:
    if given is not None and given < 0:
        raise ValueError(f"a number of samples is wanted, got {given}")
    return usual if given is None else given


def _start_ranks(options: Mapping[str, Any], device: str | None) -> None:
    """Run the command again as the ranks that are asked for, and end with their exit code, if nobody has started any.

    Raises:
        ValueError: There is no such device, or other ranks were started.
    """
    if (ranks := options["gpus"] or 1) > 1 and not is_rank():
        from videoaccel.jobs.resolve import pick_device  # what is wrong is said once

        raise typer.Exit(start_again(ranks, device=str(pick_device(device))))
    if is_rank() and ranks not in (1, ranks_started()):
        raise ValueError(f"--gpus {ranks} was asked for, but {counted(ranks_started(), 'rank')} were started")


def _settings(options: Mapping[str, Any]) -> CalibrateSettings:
    values = shared_values(options, shared=SHARED, command="calibrate")
    values |= {name: options[name] for name in _OWN if options[name] is not None}
    return made_of(CalibrateSettings, values, spelled={name: flag(name) for name in values})


def _merge(options: Mapping[str, Any]) -> None:
    files, out = options["files"] or [], options["output"]
    if not options["merge"]:
        raise ValueError(f"{files[0]!r} has no place here; --merge adds up priors, --prompts takes a file of prompts")
    if out is None:
        raise ValueError("--merge needs a file to write to, such as -o all.safetensors")
    if given := [name for name in (*SHARED, *_OWN[:-1], "prompts") if options.get(name) is not None]:
        raise ValueError(f"--{given[0].replace('_', '-')} changes nothing where priors are merged")
    from videoaccel.calibration.files import merge_files

    prior = merge_files(files, out)
    if not options["quiet"]:
        say(_summary(prior, out))


def _summary(prior: Prior, path: str) -> str:
    tables = ", ".join(f"{name} ({prior.samples[name]})" for name in sorted(prior.tables))
    samples = len(prior.info.get("samples", [])) or max(prior.samples.values(), default=0)
    lines = [
        f"{path}  {counted(samples, 'sample')}, {as_bytes(Path(path).stat().st_size)}",
        f"  tables, each with its samples: {tables}",
    ]
    if (found := prior.info.get("influence_correlation")) is not None:
        pairs = len(prior.info["influence_check"])
        lines.append(f"  influences against {pairs} replays: correlation {found:.3f} (of logarithms)")
    return "\n".join(lines)


def _own(name: str) -> inspect.Parameter:
    """An option of calibrate's own."""
    field = CalibrateSettings.model_fields[name]
    texts = {"memory": "SIZE", "methods": "NAME,NAME,...", "output": "FILE", "backbones": "DIR"}
    kind: Any = list[str] | None if name == "methods" else str | None if name in texts else int | None
    flags = ["--output", "-o"] if name == "output" else [f"--{name.replace('_', '-')}"]
    default = f" Default: {field.default}." if isinstance(field.default, int) else ""
    made = typer.Option(
        *flags, help=f"{field.description}{default}", metavar=texts.get(name, "N"), rich_help_panel=PANEL
    )
    return keyword(name, Annotated[kind, made])


def _files() -> inspect.Parameter:
    made = typer.Argument(help="Priors to add up, with --merge.", metavar="FILE")
    return keyword("files", Annotated[list[str] | None, made])


def _others() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, text: str, *, of: str | None = None, metavar: str | None = None) -> Any:
        made = typer.Option(*(of or f"--{name}").split(), help=text, metavar=metavar, rich_help_panel=PANEL)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    return [
        option("prompts", str | None, "Prompts from a file, one a line, in place of those in the box.", metavar="FILE"),
        option("curve", int | None, "Samples on which the quality at fewer calls is measured (pipelines of diffusers).",
               metavar="N"),
        option("gpus", int | None, "Ranks to start on this machine; samples are dealt out to them.", metavar="N"),
        option("merge", bool, "Add up what several runs or machines measured, instead of measuring."),
        option("set_", list[str] | None, "Any setting, a.b=c; the value is YAML.", of="--set", metavar="NAME=VALUE"),
        option("quiet", bool, "Print nothing but warnings and errors.", of="--quiet -q"),
    ]  # fmt: skip
