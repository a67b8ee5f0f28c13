"""What can be had on which pipeline of diffusers, from runs of tiny random ones: a table for ``docs/diffusers.md``.

``python -m tests.adapters.matrix docs/diffusers.md`` writes it there, between its marks.
"""

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers

from tests.adapters import further_pipes, image_pipes, more_pipes, picture_pipes, video_pipes
from tests.adapters.image_pipes import flow, stable_diffusion, stable_diffusion_img2img
from tests.adapters.tiny import Run, Tiny
from tests.adapters.video_pipes import wan
from videoaccel.generation.accelerate import accelerate

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"

SOLVERS: tuple[Callable[[], Any], ...] = (
    diffusers.DDIMScheduler,
    diffusers.DDPMScheduler,
    image_pipes.dpm,
    lambda: image_pipes.dpm(algorithm_type="sde-dpmsolver++"),
    diffusers.DPMSolverSinglestepScheduler,
    diffusers.DEISMultistepScheduler,
    image_pipes.euler,
    diffusers.EulerAncestralDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
    diffusers.KDPM2DiscreteScheduler,
    diffusers.KDPM2AncestralDiscreteScheduler,
    diffusers.LMSDiscreteScheduler,
    diffusers.IPNDMScheduler,
    diffusers.SASolverScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.LCMScheduler,
    diffusers.TCDScheduler,
)
FLOWS: tuple[Callable[[], Any], ...] = (flow, diffusers.FlowMatchHeunDiscreteScheduler, diffusers.FlowMatchLCMScheduler)


@dataclass(frozen=True)
class Row:
    """What two runs of a pipeline showed.

    Attributes:
        exact: Whether computing everything, attached, gave the plain run's bits and random numbers.
        sound: Whether runs with forecasts were finite, drew the same random numbers, and came off without trace.
        left: Calls that ``first_block`` left after the first block where nothing is too much of a change, or why none.
    """

    pipeline: str
    scheduler: str
    evaluations: int
    streams: int
    calls: int
    exact: bool
    sound: bool
    computed: int
    refused: str
    left: str

    def __str__(self) -> str:
        cells = (
            self.pipeline, self.scheduler, self.evaluations, self.streams, self.calls,
            "equal" if self.exact else "DIFFERENT", self.computed, self.refused, self.left,
        )  # fmt: skip
        return "| " + " | ".join(map(str, cells)) + " |"


def cases() -> dict[str, Callable[[], Tiny]]:
    """How to make every pipeline with its usual scheduler, and some with many."""
    found: dict[str, Callable[[], Tiny]] = {}
    for module in (image_pipes, video_pipes, more_pipes, picture_pipes, further_pipes):
        found |= {name: make for name, make in _makers(module) if name not in found}
    found["skyreels_forcing, frame after frame"] = lambda: more_pipes.skyreels_forcing(ar_step=2)
    for kind, solvers in ((stable_diffusion, SOLVERS), (stable_diffusion_img2img, SOLVERS[8:9]), (wan, FLOWS)):
        for solver in solvers:
            found[f"{kind.__name__}, {type(solver()).__name__}{len(found)}"] = lambda k=kind, s=solver: k(s())
    return found


def measured(make: Callable[[], Tiny]) -> Row:
    """Run a pipeline plainly, with ``off`` and with ``fixed_linear``."""
    tiny = make()
    plain, calls = tiny(), tiny.calls.total()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with accelerate(tiny.pipe, "off") as off:
            exact = tiny().equals(plain) and tiny.calls.total() == calls == off.report().calls
        with accelerate(tiny.pipe, "fixed_linear") as fast:
            found = tiny()
            report = fast.report()
            sound = found.finite() and found.same_draws(plain) and tiny.calls.total() == report.calls_computed
        left = _left(tiny, plain)
    return Row(
        pipeline=type(tiny.pipe).__name__.removesuffix("Pipeline"),
        scheduler=type(tiny.pipe.scheduler).__name__.removesuffix("Scheduler"),
        evaluations=report.evaluations,
        streams=len(report.streams),
        calls=calls,
        exact=exact,
        sound=sound and tiny().equals(plain),
        computed=report.calls_computed,
        refused=", ".join(f"{count} calls: {reason}" for reason, count in report.reasons.items()),
        left=left,
    )


def _left(tiny: Tiny, plain: Run) -> str:
    """What ``first_block`` leaves."""
    try:
        with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
            found = tiny()
            report = fast.report()
    except ValueError as error:
        return next(reason for reason in ("UNet", "no list of blocks") if reason in str(error))
    assert found.finite() and found.same_draws(plain) and tiny.calls.total() == report.calls_computed
    return str(report.calls_left) if report.calls_left else "0, likewise"


def table(rows: list[Row]) -> str:
    """In Markdown."""
    head = (
        "pipeline",
        "scheduler",
        "evaluations",
        "streams",
        "calls",
        "all computed",
        "by `fixed_linear`",
        "refused",
        "left",
    )
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(str, rows)])


def _makers(module: ModuleType) -> list[tuple[str, Callable[[], Tiny]]]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return [
        (name, function)
        for name, function in functions
        if function.__module__ == module.__name__ and function.__annotations__.get("return") is Tiny
    ]


def main(page: Path) -> None:
    """Write the table into a page, between its marks."""
    rows = [measured(make) for make in cases().values()]
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
