"""``videoaccel generate``: its options are the fields of `videoaccel.settings.generate.GenerateSettings`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.flags import flag, shown
from videoaccel.cli.generate_text import difference, ending, planned, summary
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import must_start, rank, start
from videoaccel.cli.terminal import say
from videoaccel.common.home import expand
from videoaccel.common.reading import STDIN, read_prompts
from videoaccel.settings.config import config_folder, config_names, read_yaml
from videoaccel.settings.early import check_early
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, assignments, merge

if TYPE_CHECKING:
    from videoaccel.jobs.generate import Clip
    from videoaccel.jobs.sidecar import Sidecar
    from videoaccel.outside.order import OutsideOrder

_ONLY_OUTPUT = {"output", "contact_sheet", "explain"}


def command() -> Callable[..., int]:
    """The command, with one option a setting."""

    def generate(**options: Any) -> int:
        """Make videos from text, images and clips."""
        return _generate(options)

    names = [name for name in GenerateSettings.model_fields if shown(name)["flag"] != "-"]
    parameters = [parameter(name) for name in names] + _job_options()
    generate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    generate.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return generate


def _generate(options: dict[str, Any]) -> int:
    job = gather(options)
    check_early(job.settings)
    from videoaccel.outside.find import find_outside

    found = find_outside(job.settings)
    if options["dry_run"] and found is not None:
        from videoaccel.cli.outside import dry_run

        say("\n".join([dry_run(job.settings, found), *([f"# {difference(job)}"] if job.changed else [])]))
        return 0
    if options["dry_run"]:
        from videoaccel.common.files import check_folder
        from videoaccel.jobs.resolve import resolve

        order = resolve(job.settings)
        if order.settings.vbench is None:  # whose folders are made when it runs
            for path in (path for outputs in order.outputs for path in outputs.all):
                check_folder(path)
        say(planned(order, job))
        return 0
    if found is not None and must_start(job.settings):
        from videoaccel.outside import generate as outside  # torch and all
        from videoaccel.outside.order import resolve_outside

        again = {"--from": options["from_"], "--quiet": options["quiet"], "--debug": "--debug" in sys.argv}

        def resolved(settings: GenerateSettings) -> OutsideOrder:
            return resolve_outside(settings, found, ranks="together")

        return start("generate", job.settings, options=again, check=outside.check_files, resolved=resolved)
    if must_start(job.settings):
        again = {"--from": options["from_"], "--quiet": options["quiet"], "--debug": "--debug" in sys.argv}
        from videoaccel.jobs.generate import check_files  # torch and all

        return start("generate", job.settings, options=again, check=check_files)
    with shown_progress(quiet=options["quiet"] or rank() > 0) as display:
        from videoaccel.outside.generate import generate  # torch and all

        calm_libraries(quiet=options["quiet"] or rank() > 0)
        if job.changed and not options["quiet"] and rank() == 0:
            display.note(difference(job))
        origin = None if job.changed else job.origin

        def done(clip: Clip) -> None:
            if not options["quiet"]:
                say(summary(clip, origin))

        generate(job.settings, listener=display, done=done, origin=origin)
    return 0


@dataclass(frozen=True)
class Job:
    """What a command line asks for.

    Attributes:
        settings: From all places.
        origin: The sidecar of ``--from``.
        changed: Settings that are not those of that sidecar's clip.
    """

    settings: GenerateSettings
    origin: Sidecar | None = None
    changed: tuple[str, ...] = ()


def gather(options: Mapping[str, Any]) -> Job:
    """Put settings from all places together.

    Raises:
        ValueError: A file or a value is wrong.
        FileNotFoundError: A file is not there.
    """
    origin, layers = None, []
    if options["from_"]:
        if not expand(options["from_"]).exists():  # told before torch is imported
            raise FileNotFoundError(
                f"{options['from_']} does not exist; --from takes the .json that was written beside a clip"
            )
        from videoaccel.jobs.sidecar import Sidecar

        origin = Sidecar.read(options["from_"])
        layers = [Layer(origin.settings, lambda name: f"{origin.path}: settings.{name}")]
        layers.append(Layer({"output": _again(origin)}))
    if options["config"]:
        path = config_path(options["config"])
        layers.append(Layer(read_yaml(path), lambda name: f"{path}: {name}"))
    given = typed(options, GenerateSettings.model_fields)
    if "args" in given:
        given["args"] = _together(layers, given["args"])
    if prompts := list(_prompts(options)):
        given["prompt"] = prompts
    layers.append(Layer(given, flag))
    layers.append(Layer(assignments(options["set_"] or []), lambda name: f"--set {name}"))
    settings = merge(layers)
    if origin is None:
        return Job(settings)
    was, now = (made.model_dump(exclude=_ONLY_OUTPUT) for made in (merge(layers[:1]), settings))
    return Job(settings, origin, changed=tuple(name for name in now if now[name] != was[name]))


def typed(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What options of this command were given, by setting.

    Raises:
        ValueError: An ``--arg`` is no assignment.
    """
    given = {name: options[name] for name in names if options.get(name) not in (None, [], ())}
    if "args" in given:
        given["args"] = assignments(given["args"], of="--arg")
    return given


def _together(layers: Sequence[Layer], args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline from all places: each is replaced by itself, not all of them together."""
    found: dict[str, Any] = {}
    for layer in layers:
        found |= layer.values.get("args") or {}
    return {**found, **args}


def shared_values(options: Mapping[str, Any], *, shared: Sequence[str], command: str) -> dict[str, Any]:
    """What a command that shares some of these options was told by them, its ``--set`` and its file of prompts.

    Raises:
        ValueError: A file or a value is wrong, or ``--set`` names a setting that is not shared.
    """
    given = typed(options, shared)
    set_ = assignments(options["set_"] or [])
    if wrong := [name for name in set_ if name not in shared]:
        raise ValueError(f"--set {wrong[0]}: {command} takes {', '.join(shared)}")
    settings = merge([Layer(given, flag), Layer(set_, lambda name: f"--set {name}")])
    values = {name: getattr(settings, name) for name in (*given, *set_)}
    if (file := options["prompts"]) is not None:
        values["prompts"] = tuple(read_prompts(file))
    return values


def parameter(name: str) -> inspect.Parameter:
    """A setting as an option."""
    field, look = GenerateSettings.model_fields[name], shown(name)
    if name == "prompt":
        text = f"{str(field.description).rstrip('.')}; - reads them from stdin."
        argument = typer.Argument(help=text, metavar="PROMPT")
        return keyword(name, Annotated[list[str] | None, argument])
    flags = [flag(name)] + ([str(look["flag"])] if len(str(look["flag"])) == 2 else [])
    annotation: Any = str | None
    if field.annotation is bool:
        annotation, flags = bool | None, [f"{flag(name)}/--no-{flag(name)[2:]}"]
    elif field.default in ((), {}):
        annotation = list[str] | None
    default = field.default if field.default not in (None, (), {}, False, True) else None
    text = f"{field.description}{f' Default: {default}.' if default is not None else ''}"
    # Everything arrives as text; the settings turn it into values, and say what is wrong with it in one way.
    option = typer.Option(*flags, help=text, metavar=_metavar(name), rich_help_panel=str(look["panel"]))
    return keyword(name, Annotated[annotation, option])


def _metavar(name: str) -> str | None:
    field, look = GenerateSettings.model_fields[name], shown(name)
    if field.annotation is bool:
        return None
    kinds = {int: "N", float: "X"}
    number = next((text for kind, text in kinds.items() if kind.__name__ in str(field.annotation)), "TEXT")
    return str(look["metavar"]) or number


def _job_options() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, flag: str, text: str, metavar: str | None = None) -> inspect.Parameter:
        made = typer.Option(*flag.split(), help=text, metavar=metavar, rich_help_panel="Job")
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    texts = list[str] | None
    return [
        option("prompts", str | None, "--prompts", "Prompts from a file, one a line; - is stdin.", "FILE"),
        option("config", str | None, "--config", "Settings from a YAML file; options win over it.", "FILE"),
        option("set_", texts, "--set", "Any setting, a.b=c, over everything else; the value is YAML.", "NAME=VALUE"),
        option("from_", str | None, "--from", "Make a clip again from the .json beside it.", "FILE"),
        option("dry_run", bool, "--dry-run", "Print what would be made, and stop."),
        option("quiet", bool, "--quiet -q", "Print nothing but warnings and errors."),
        option("debug", bool, "--debug", "Show tracebacks."),
    ]


def keyword(name: str, annotation: Any, *, default: Any = None) -> inspect.Parameter:
    """A keyword of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def config_path(name: str) -> Path:
    """A file, or the name of one of the configurations in the box."""
    path = expand(name)
    if not path.exists() and name in config_names("runs"):
        return config_folder("runs") / f"{name}.yaml"
    return path


def _again(origin: Sidecar) -> str:
    """Where a clip that is made again goes unless told otherwise: beside its model, never over it."""
    end = ending(origin.record["output"]["file"])
    return f"{origin.path.with_name(f'{origin.path.stem}-again')}{end}"


def _prompts(options: Mapping[str, Any]) -> Iterator[str]:
    for prompt in options["prompt"] or []:
        yield from read_prompts(STDIN) if prompt == STDIN else [prompt]
    if name := options["prompts"]:
        yield from read_prompts(name)
