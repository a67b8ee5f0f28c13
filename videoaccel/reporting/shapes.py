"""What of others' results a report asks for, so that a file of another shape is a sentence, or is passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from videoaccel.session.action_grid import LETTERS


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("a number is wanted")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Quality = Number | Literal["inf"]
"""JSON holds infinity as a text."""


class Shape(BaseModel):
    """Fields that are read; others may be anything."""

    model_config = ConfigDict(extra="allow")


class Holds(Shape):
    """What a comparison was made for."""

    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    frames: int
    steps: int
    guidance: Number
    dtype: str


class Result(Shape):
    """A setting of a comparison."""

    method: str
    setting: str
    error: str | None
    psnr: Quality | None = None
    worst_psnr: Quality | None = None
    ssim: Number | None = None
    latency_s: Number | None = None
    speedup_latency: Number | None = None
    speedup_latency_low: Number | None = None
    speedup_latency_high: Number | None = None
    speedup_flops: Number | None = None
    peak_memory: Number | None = None
    cache_bytes: Number | None = None
    replayed: Number | None = None
    coarser: str | None = None


class Compared(Shape):
    """``results.json`` of a comparison."""

    holds: Holds
    rows: list[Result]
    machine: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    at_speedup: list[dict[str, Any]] = []


class Grid(Shape):
    """Decisions of a clip, a letter a site."""

    sites: list[str]
    steps: list[str]

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if any(len(step) != len(self.sites) or not set(step) <= set(LETTERS) for step in self.steps):
            raise ValueError("every step has a letter for each site")
        return self


class Measured(Shape):
    """A row of a comparison."""

    kind: Literal["quality", "timing"]
    method: str
    setting: str
    prompt: str = ""
    seed: int = 0
    psnr: Quality | None = None
    ssim: Number | None = None
    grid: Grid | None = None


class Twin(Shape):
    """What was measured of a clip and its exact twin."""

    key: str
    psnr: Quality
    ssim: Number | None
    picture: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")] | None = None


class Score(Shape):
    """A metric of an evaluation."""

    metric: str
    title: str
    unit: str
    score: Quality | None
    worst: str | None
    worst_value: Quality | None
    measured: Any
    failed: Any


class Evaluated(Shape):
    """``results.json`` of an evaluation."""

    scores: list[Score]
    not_run: dict[str, list[str]]
    vbench: dict[str, Any] | None = None


class Settings(Shape):
    """Of a rendered clip."""

    size: str | None
    frames: int
    steps: int
    speedup: Number | None = None
    accel_options: dict[str, Any] | None = None


class Machine(Shape):
    """That made it."""

    name: str


class Acceleration(Shape):
    """What made it fast."""

    method: str | None = None


class Ranks(Shape):
    """That made it together."""

    guidance: Annotated[int, Field(ge=1, le=2)] = 1
    sequence: Annotated[int, Field(ge=1, le=100_000)] = 1


class Eased(Shape):
    """How memory was saved."""

    steps: list[str] = []


class Job(Shape):
    """Of a render."""

    memory: Eased = Eased()


class Clip(Shape):
    """A sidecar."""

    seconds: dict[str, Number]
    settings: Settings
    output: dict[str, Any]
    machine: Machine
    versions: dict[str, Any] | None = None
    acceleration: Acceleration | None = None
    peak_memory_bytes: Number | None = None
    ranks: Ranks = Ranks()
    job: Job = Job()


def fits(shape: type[Shape], value: Mapping[str, Any]) -> bool:
    """Whether a row is of a shape; one that is not is passed over."""
    try:
        shape.model_validate(value)
    except ValidationError:
        return False
    return True
