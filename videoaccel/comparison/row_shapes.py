"""What a row of a comparison holds, so that a damaged one is named, not stumbled over when all is summed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(strict=True)]
_Count = Annotated[int, Field(strict=True, ge=0)]


class _Row(BaseModel):
    """What is measured, and where nothing could be, why."""

    model_config = ConfigDict(extra="allow")
    method: _Text
    setting: _Text
    prior: _Text
    prompt: _Text
    seed: Annotated[int, Field(strict=True)]


class _Failed(_Row):
    kind: Literal["quality", "timing"]
    repeat: _Count | None
    error: _Text


class _GraphCalls(BaseModel):
    recorded: _Count = 0
    replayed: _Count = 0
    dropped: _Count = 0
    plain: dict[str, _Count] = {}


class _Quality(_Row):
    repeat: None
    psnr: _Number | Literal["inf"]
    ssim: _Number | None  # of sound there is none
    world: dict[str, tuple[_Number, _Positive]] | None
    flops: _Number | None  # of a network that cannot be counted
    fired: Annotated[bool, Field(strict=True)]
    digest: _Text
    cache_bytes: _Number
    coarser: dict[str, Any] = {}
    graph_calls: _GraphCalls | None = None


class _Timing(_Row):
    repeat: _Count
    seconds: _Positive
    exact_seconds: _Positive
    plan_seconds: _Number
    peak_memory: _Number | None
    graph_calls: _GraphCalls | None = None


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a line of the file is a measurement, whole."""
    kind = row.get("kind")
    shape = _Failed if "error" in row else _Quality if kind == "quality" else _Timing if kind == "timing" else None
    try:
        return shape is not None and bool(shape.model_validate(row))
    except ValidationError:
        return False
