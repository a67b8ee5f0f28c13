"""What one run of ``videoaccel calibrate`` is told, as one checked value. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from videoaccel.common.reading import parse_bytes
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.refused import Settings

SHARED = (
    "model", "vae", "text_encoder", "lora", "size", "resolution", "aspect", "frames", "fps", "steps", "guidance",
    "scheduler", "dtype", "device", "threads", "text_cache",
)  # fmt: skip
"""Settings of a generation that are settings of its calibration, too."""

# Calibration needs what is usual, not what is beautiful: still and moving, near and far, dark and bright.
PROMPTS = (
    "a man walks along a beach at low tide",
    "a city street at night after rain, cars passing by",
    "a cat sleeps on a window sill in the sun",
    "waves break against a rocky coast",
    "a woman cuts vegetables in a small kitchen",
    "an aerial view of fields and a winding river",
    "snow falls on a quiet forest",
    "a train arrives at a station, people waiting",
    "a close view of coffee being poured into a cup",
    "two dogs run after a ball on a lawn",
    "clouds move over a mountain range",
    "a musician plays the piano on a dim stage",
)
"""Prompts of models that we know nothing of."""


def _names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _bytes(value: Any) -> Any:
    return value if value is None else parse_bytes(value)


class ModelSettings(Settings):
    """A model and the clips that something is measured on; what is not said the model's defaults say."""

    model: str = "demo"
    vae: str | None = None
    text_encoder: str | None = None
    lora: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    size: str | None = None
    resolution: str | None = None
    aspect: str | int | None = None
    frames: int | str | None = None
    fps: float | None = None
    steps: int | None = Field(
        None, ge=3, le=1_000_000, description="Denoising steps; of fewer than 3 there is nothing to serve."
    )
    guidance: float | None = None
    scheduler: dict[str, Any] = Field({})
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    text_cache: bool = False

    prompts: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(
        (), description="In place of those in the box; sample k has prompt k, and after the last one the first again."
    )
    seed: int = Field(0, ge=0, le=2**62, description="Sample k has seed + k.")

    @model_validator(mode="after")
    def _as_for_a_clip(self) -> Self:
        self.generation(["a prompt"], seeds=[0])
        return self

    def generation(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> GenerateSettings:
        """The clips that are measured, as if they were to be made."""
        shared = {name: getattr(self, name) for name in SHARED}
        output = "calibration.png" if str(self.frames) == "1" else "calibration.mp4"
        return GenerateSettings(**shared, prompt=tuple(prompts), seeds=tuple(seeds), output=output)


class CalibrateSettings(ModelSettings):
    """Everything that ``videoaccel calibrate`` can be told.

    Raises:
        ValueError: A field is unknown or a value out of range.
    """

    samples: int = Field(10, ge=1, le=100_000, description="Samples to measure.")
    first: int = Field(
        0, ge=0, le=2**62, description="Number of the first sample, where several machines share the work."
    )
    replay_samples: int = Field(2, ge=0, le=100_000, description="Samples, of these, of which replays are made.")
    fit_samples: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Samples on which SODA's steps are fitted; every fourth is held out to check. Default those that "
        "are measured, 12 at most, if they are 8; 0 fits none.",
    )
    fit_search: int = Field(
        0,
        ge=0,
        le=100,
        description="Rounds in which the network calls between fitted steps are moved to better places.",
    )
    methods: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Measure what these need; all by default."
    )
    memory: Annotated[int | None, BeforeValidator(_bytes)] = Field(
        None, ge=1, description="Bytes that module outputs may take, such as 2GiB; half of what is free by default."
    )
    backbones: str | None = Field(
        None, description="Folder with LPIPS' network, for its curve; default where evaluate looks, if it is there."
    )
    output: str | None = Field(None, description="Where to; by default where generate looks.")
