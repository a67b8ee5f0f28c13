"""``videoaccel plan``: what a method would do, without doing it."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.flags import flag, shown, spelled
from videoaccel.cli.generate import keyword, parameter, typed
from videoaccel.cli.outside import MORE, found_by
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import require_alone
from videoaccel.cli.terminal import say
from videoaccel.common.extras import need
from videoaccel.common.files import check_file
from videoaccel.common.home import expand
from videoaccel.common.plain_json import to_json
from videoaccel.common.wording import as_bytes
from videoaccel.settings.early import check_early, nothing_to_plan
from videoaccel.settings.generate import TARGETS, GenerateSettings
from videoaccel.settings.layers import Layer, assignments, merge

if TYPE_CHECKING:
    from videoaccel.outside.find import Found
    from videoaccel.parallel.links import Link
    from videoaccel.preview.mesh_plan import MeshPlan

PANEL = "Plan"
SHARED = (
    "model", "vae", "text_encoder", "lora", "size", "resolution", "aspect", "frames", "fps", "steps", "guidance",
    "batch_size", "accel", *TARGETS, "prior", "allow_foreign_prior",
    "cache_memory", "gpus", "dtype", "device", "threads", "speedup_of", *MORE,
)  # fmt: skip


def command() -> Callable[..., None]:
    """The command, with those options of generate that a plan depends on."""

    def plan(**options: Any) -> None:
        """Show what a method would do at every step, or ranks with a clip: predicted, nothing generated."""
        _plan(options)

    parameters = [*(parameter(name) for name in SHARED), *_own()]
    plan.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    plan.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return plan


def _plan(options: Mapping[str, Any]) -> None:
    require_alone("plan")
    settings = gather(options)
    check_early(settings, writes=False)
    if settings.gpus is None and nothing_to_plan(settings):
        raise ValueError("there is nothing to plan without a method; name one, such as `accel=soda`")
    accelerated = not nothing_to_plan(settings)
    _check_own(options, accelerated=accelerated, ranks=settings.gpus is not None)
    if (found := found_by(settings, command="plan")) is not None:
        _outside(settings, found, options)
        return
    report, mesh = None, None
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.preview.preview import load, plan, plan_ranks  # torch and all

        calm_libraries(quiet=options["quiet"])
        shared: dict[str, Any] = {"time": not options["no_time"], "listener": display}
        if settings.gpus is not None and accelerated:
            shared["pipe"] = load(settings, listener=display)
        if settings.gpus is not None:
            mesh = plan_ranks(settings, link=_link(options["link"], settings), **shared)
        if mesh is None or accelerated:
            report = plan(settings.model_copy(update={"gpus": None}), **shared)
        if options["png"] is not None:
            from videoaccel.planning.picture import draw

            assert report is not None
            draw(report, expand(options["png"]))
    if options["json"]:
        data = {} if report is None else report.as_data()
        say(json.dumps(data if mesh is None else {**data, "mesh": mesh.as_data()}, indent=2))
        return
    sections = [report.described(asked=settings.accel)] if report else []
    say("\n\n".join([*sections, *([described_mesh(mesh)] if mesh else [])]))


def _check_own(options: Mapping[str, Any], *, accelerated: bool, ranks: bool) -> None:
    """Check options of plan's own.

    Raises:
        ValueError: One has no place here, or a package is missing.
        OSError: The picture cannot be written.
    """
    if (png := options["png"]) is not None:
        need("--png", "matplotlib", "report")
        if not str(png).lower().endswith(".png"):
            raise ValueError(f"--png draws a png; its name must end in .png, got {png!r}")
        if not accelerated:
            raise ValueError("--png draws what a method does; name one, such as --accel soda")
        check_file(expand(png))
    if (link := options["link"]) is not None:
        if not ranks:
            raise ValueError("--link is for --gpus: how fast ranks exchange")
        if not 0 < link < float("inf"):
            raise ValueError(f"--link takes GB/s above 0, got {link:g}")


def _outside(settings: GenerateSettings, found: Found, options: Mapping[str, Any]) -> None:
    """Of a pipeline of diffusers."""
    if wrong := [name for name in ("png", "link", "no_time") if options[name]]:
        raise ValueError(f"--{wrong[0].replace('_', '-')} is for plans of our own models")
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.preview.outside import plan_outside  # torch and all

        calm_libraries(quiet=options["quiet"])
        plan = plan_outside(settings, found, listener=display)
    say(to_json(plan.as_data(), indent=2) if options["json"] else plan.described(asked=settings.accel))


def _link(gigabytes: float | None, settings: GenerateSettings) -> Link | None:
    if gigabytes is None:
        return None
    from videoaccel.preview.mesh_plan import given_link

    return given_link(gigabytes, device=settings.device or "given", ranks=settings.gpus or 1)


def described_mesh(plan: MeshPlan) -> str:
    """The section Mesh as text."""
    stream = plan.stream
    tokens = f"{stream.frames} latent frames x {stream.places} places x {stream.width} channels"
    lines = [f"Mesh: {plan.ranks} ranks, {tokens}, {stream.rows} rows (predicted)"]
    if plan.dense_ms is not None:
        lines.append(f"  a dense step on one rank: {plan.dense_ms:.1f} ms, as timed here (kept: see videoaccel cache)")
    if plan.link is not None:
        among = f", measured among {plan.link.ranks} ranks" if plan.link.latency else ""
        lines.append(f"  links of {plan.link.speed / 1e9:.2f} GB/s{among}")
        if plan.link.device == "cpu" and plan.ranks > (cores := os.cpu_count() or 1):
            lines.append(f"  as on machines of their own: here {plan.ranks} CPU ranks share {cores} cores")
    else:
        lines.append("  no times for ranks: videoaccel doctor --links N measures their exchanges, --link tells it")
    lines.append(
        "  guidance x sequence        padding (frames, places)   sent a step       a rank       ms a dense step"
    )
    for choice in plan.choices:
        one = choice.load
        name = f"{one.degrees.guidance} x {one.degrees.sequence} {one.scheme if one.degrees.sequence > 1 else ''}"
        sent, held = as_bytes(one.switched + one.gathered), as_bytes(choice.memory)
        waste = f"{one.frame_waste:.0%}, {one.place_waste:.0%}"
        time = "-" if choice.ms is None else f"{choice.ms:.1f}"
        lines.append(f"  {name:<26} {waste:<26} {sent:<17} {held:<12} {time}")
    return "\n".join([*lines, f"  {spelled(plan.reason())}"])


def gather(options: Mapping[str, Any]) -> GenerateSettings:
    """Settings from options.

    Raises:
        ValueError: A value is wrong, or several targets are given.
    """
    return merge(
        [Layer(typed(options, SHARED), flag), Layer(assignments(options["set_"] or []), lambda name: f"--set {name}")]
    )


def _own() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, of: str, text: str, metavar: str | None = None, panel: str = PANEL) -> Any:
        made = typer.Option(*of.split(), help=text, metavar=metavar, rich_help_panel=panel)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    accel = str(shown("accel")["panel"])
    return [
        option("set_", list[str] | None, "--set", "Any setting, such as accel_options.period=3.", "NAME=VALUE", accel),
        option("png", str | None, "--png", "Draw it: step by site, one colour an action.", "FILE"),
        option("link", float | None, "--link", "GB/s that a rank sends, for --gpus; default as measured.", "X"),
        option("json", bool, "--json", "Machine-readable."),
        option("no_time", bool, "--no-time", "Count FLOPs only; do not time this machine."),
        option("quiet", bool, "--quiet -q", "No progress."),
    ]
