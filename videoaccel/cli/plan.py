"""``videoaccel plan``: what a method would do, without doing it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.flags import flag, shown
from videoaccel.cli.generate import keyword, parameter
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.settings import TARGETS, GenerateSettings, Layer, assignments, merge
from videoaccel.wording import as_bytes

if TYPE_CHECKING:
    from videoaccel.planning import PlanReport

PANEL = "Plan"
SHARED = (
    "model", "vae", "text_encoder", "size", "resolution", "aspect", "frames", "fps", "steps", "guidance", "batch_size",
    "accel", *TARGETS, "prior", "allow_foreign_prior",
    "cache_memory", "dtype", "device", "threads",
)  # fmt: skip


def command() -> Callable[..., None]:
    """The command, with those options of generate that a plan depends on."""

    def plan(**options: Any) -> None:
        """Show what a method would do at every step: predicted speed-up and error, nothing generated."""
        _plan(options)

    parameters = [*(parameter(name) for name in SHARED), *_own()]
    plan.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    plan.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return plan


def _plan(options: Mapping[str, Any]) -> None:
    settings = gather(options)
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.planning import plan  # torch and all

        calm_libraries(quiet=options["quiet"])
        report = plan(settings, time=not options["no_time"], listener=display)
        if options["png"] is not None:
            from videoaccel.plan_picture import draw

            draw(report, options["png"])
    typer.echo(json.dumps(report.as_data(), indent=2) if options["json"] else described(report))


def gather(options: Mapping[str, Any]) -> GenerateSettings:
    """Settings from options.

    Raises:
        ValueError: A value is wrong, or several targets are given.
    """
    given = {name: options[name] for name in SHARED if options.get(name) is not None}
    return merge([Layer(given, flag), Layer(assignments(options["set_"] or []), lambda name: f"--set {name}")])


def described(report: PlanReport) -> str:
    """The report as text."""
    from videoaccel.planning import gathered

    fields = ", ".join(f"{name} {value}" for name, value in report.fields.items() if value not in (None, [], ""))
    lines = [f"{report.method} ({fields})", *_prior_lines(report)]
    if report.adaptive:
        lines.append(f"  stores about {as_bytes(report.cache_bytes)}")
        return "\n".join(
            [*lines, "  its decisions depend on the clip, so nothing is foretold; videoaccel compare measures it"]
        )
    gain = f"  predicted: {report.ratio(report.flops):.2f}x fewer FLOPs"
    if report.ms is not None:
        dense, taken = (report.asked * report.ms.dense / 1000, report.ms.total(report.steps, report.shares) / 1000)
        gain += f", {report.ratio(report.ms):.2f}x faster here ({dense:.2f} s to {taken:.2f} s in the network)"
    lines.append(gain)
    lines.append(f"  stores at most {as_bytes(report.cache_bytes)}")
    if report.error is not None:
        lines.append(f"  expected error: {report.error:.4g}, in the method's own unit")
    total = len(report.steps)
    asked = "" if total == report.asked else f" ({report.asked} were asked for)"
    lines.append(f"  computed in full: {len(report.anchors)} of {total} steps{asked}")
    for what, at in gathered(report.summary()).items():
        lines.append(f"  {what}: {'step' if at.isdigit() else 'steps'} {at}")
    return "\n".join(lines)


def _prior_lines(report: PlanReport) -> list[str]:
    lines = [] if report.prior is None else [f"  calibrated errors: {report.prior}"]
    if report.interpolated:
        lines.append(f"  interpolated: they were made for {', '.join(report.interpolated)}")
    return lines


def _own() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, of: str, text: str, metavar: str | None = None, panel: str = PANEL) -> Any:
        made = typer.Option(of, help=text, metavar=metavar, rich_help_panel=panel)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    accel = str(shown("accel")["panel"])
    return [
        option("set_", list[str] | None, "--set", "Any setting, such as accel_options.period=3.", "NAME=VALUE", accel),
        option("png", str | None, "--png", "Draw it: step by site, one colour an action.", "FILE"),
        option("json", bool, "--json", "Machine-readable."),
        option("no_time", bool, "--no-time", "Count FLOPs only; do not time this machine."),
        option("quiet", bool, "--quiet", "No progress."),
    ]
