"""``videoaccel train-router``: trains the routers of the method ``elastic`` for a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from videoaccel.cli.flags import flag, shown
from videoaccel.cli.generate import keyword, parameter, shared_values, typed
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.terminal import say
from videoaccel.common.home import expand
from videoaccel.routers.places import check_output
from videoaccel.settings.calibrate import SHARED, ModelSettings
from videoaccel.settings.early import check_early
from videoaccel.settings.layers import Layer, merge
from videoaccel.settings.refused import made_of
from videoaccel.settings.routers import RouterSettings

PANEL = "Training"
_OWN = ("seed", *(name for name in RouterSettings.model_fields if name not in ModelSettings.model_fields))
_KINDS: Mapping[str, Any] = {"rate": float, "hidden_weight": float, "budget_weight": float, "warm_start": bool}


def command() -> Callable[..., None]:
    """The command, with the options of generate that say for what the routers are trained."""

    def train_router(**options: Any) -> None:
        """Train routers, which say what of a model to leave out; stopped, the same command goes on where it was.

        The model stays as it is, and no data are needed: it learns from the model's own clips.
        """
        _train(options)

    shared = [parameter(name) for name in SHARED if shown(name)["flag"] != "-"]
    parameters = [*shared, *map(_own, _OWN), *_others()]
    train_router.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train_router.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return train_router


def _train(options: dict[str, Any]) -> None:
    check_early(merge([Layer(typed(options, SHARED), flag)]), writes=False)
    settings = _settings(options)
    if settings.output is not None:
        check_output(expand(settings.output))
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.routers.training import train_router  # torch and all

        calm_libraries(quiet=options["quiet"])
        made = train_router(settings, listener=display, note=(lambda text: None) if options["quiet"] else display.note)
    if not options["quiet"]:
        for checked in made.info["checked"]:
            say(
                f"  budget {checked['budget']:.2f}: {checked['share']:.2f} of the blocks' FLOPs, "
                f"squared error of the velocity {checked['velocity']:.4f}"
            )


def _settings(options: Mapping[str, Any]) -> RouterSettings:
    values = shared_values(options, shared=SHARED, command="train-router")
    values |= {name: options[name] for name in _OWN if options[name] is not None}
    return made_of(RouterSettings, values, spelled={name: flag(name) for name in values})


def _own(name: str) -> inspect.Parameter:
    """An option of train-router's own."""
    field = RouterSettings.model_fields[name]
    texts = {"budget": "LOW:HIGH", "output": "FILE"}
    kind: Any = str | None if name in texts else _KINDS.get(name, int) | None
    flags = ["--output", "-o"] if name == "output" else [f"--{name.replace('_', '-')}"]
    default = f" Default: {field.default:g}." if isinstance(field.default, int | float) and kind != bool | None else ""
    metavar = texts.get(name) if kind == bool | None else texts.get(name, "N")
    made = typer.Option(*flags, help=f"{field.description}{default}", metavar=metavar, rich_help_panel=PANEL)
    return keyword(name, Annotated[kind, made])


def _others() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, text: str, *, of: str | None = None, metavar: str | None = None) -> Any:
        made = typer.Option(*(of or f"--{name}").split(), help=text, metavar=metavar, rich_help_panel=PANEL)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    return [
        option("prompts", str | None, "Prompts from a file, one a line, in place of those in the box.", metavar="FILE"),
        option("set_", list[str] | None, "Any setting, a.b=c; the value is YAML.", of="--set", metavar="NAME=VALUE"),
        option("quiet", bool, "Print nothing but warnings and errors.", of="--quiet -q"),
    ]
