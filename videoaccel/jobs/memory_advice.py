"""What to lower where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from videoaccel.jobs.samples import Outputs
from videoaccel.settings.generate import NONE, TARGETS, GenerateSettings


class Ordered(Protocol):
    """What is made, of our own models or others."""

    @property
    def settings(self) -> GenerateSettings:
        """As resolved."""
        ...

    @property
    def outputs(self) -> Sequence[Outputs]:
        """Of all clips that are written."""
        ...


class OutOfMemoryError(MemoryError):
    """Memory ran out; the message says which settings to lower."""


@contextmanager
def memory_advice(order: Ordered, stage: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into a sentence that says what to lower.

    Args:
        order: What is made.
        stage: Says in which stage the work is.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch raises a bare RuntimeError.
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not short:
            raise
        raise OutOfMemoryError(_advice(order, stage())) from error


def _advice(order: Ordered, stage: str) -> str:
    s = order.settings
    clips = min(s.batch_size, len(order.outputs))
    lower = [
        (clips > 1, f"`batch_size` (now {clips})"),
        (True, _now("size", s.size)),
        (True, _now("frames", s.frames)),
    ]
    switch = [
        (s.dtype == "float32", "`dtype=bfloat16`"),
        (not s.vae_tiling and stage in ("decode", "write"), "`vae_tiling`"),
        (str(s.device).startswith("cuda") and not s.offload, "`offload`"),
        (stage == "denoise" and _accelerated(s), "`cache_memory`, which a method's stored values keep within"),
    ]
    ways = [f"lower {' or '.join(text for useful, text in lower if useful)}"]
    ways += [f"use {text}" for useful, text in switch if useful]
    return f"out of memory on {s.device} during {stage}: {', or '.join(ways)}"


def _accelerated(s: GenerateSettings) -> bool:
    return s.accel not in (None, NONE) or any(getattr(s, name) is not None for name in TARGETS)


def _now(name: str, value: object) -> str:
    """A setting with its value, if it was said."""
    return f"`{name}`" if value is None else f"`{name}` (now {value})"
