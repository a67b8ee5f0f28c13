"""What a comparison is about, and what makes it: clips, what was decided in one, and benches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray

from videoaccel.comparison.settings import Setting

Content = NDArray[Any]
"""What came out: frames uint8 [T, H, W, 3], or sound float32 [C, N]."""


class Clip(NamedTuple):
    """What is generated: with every setting the same. Of models that read no prompt this is empty."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Decided:
    """What a method did in one run.

    Attributes:
        steps: Of the run.
        flops: Operations of all network calls; None if they were not counted.
        changed: Whether anything was not computed in full.
        digest: Of all decisions.
        actions: How often what was done.
        cache_bytes: Most that the method held.
        grid: By site and step, for a picture; see :func:`videoaccel.session.action_grid.as_letters`.
        coarser: Fields of the method that memory has changed, with their values; empty where it kept its form.
    """

    steps: int
    flops: float | None
    changed: bool
    digest: str
    actions: Mapping[str, int]
    cache_bytes: int
    grid: Mapping[str, Any]
    coarser: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """One run; what else there is of it is its bench's."""

    @property
    def seconds(self) -> float:
        """Of denoising alone."""
        ...

    @property
    def plan_seconds(self) -> float:
        """Of what came before it."""
        ...

    @property
    def peak(self) -> int | None:
        """Most memory in use meanwhile, bytes; None where that cannot be told."""
        ...

    @property
    def graph_calls(self) -> Mapping[str, Any] | None:
        """What was replayed as CUDA graphs, and what was not and why, as in sidecars; None where there are none."""
        ...


class AnyBench(Protocol):
    """Makes any clip with any setting, the same way for all.

    Attributes:
        warm: Settings that have run in this process.
    """

    warm: set[tuple[str, str]]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    def make(self, clip: Clip, setting: Setting) -> Any:
        """A :class:`Run`.

        Raises:
            ValueError: The method cannot run here.
        """
        ...

    def decode(self, made: Any) -> Content:
        """What came out.

        Raises:
            FloatingPointError: It is not numbers.
        """
        ...

    def same(self, one: Any, other: Any) -> bool:
        """Whether two runs gave the same latents, bit for bit."""
        ...

    def decided(self, made: Any) -> Decided:
        """What the method did."""
        ...

    def compared(self, content: Content, reference: Content, prompt: str) -> dict[str, Any]:
        """``psnr``, ``ssim`` and ``world`` of what came out, against what exact made."""
        ...

    def why_not(self, setting: Setting, clip: Clip) -> str | None:
        """Why a method cannot run here at all; None if it can."""
        ...

    def prior_hash(self, setting: Setting, clip: Clip) -> str:
        """Tells the measured errors apart that a setting runs on; empty if it needs none."""
        ...

    def holds(self, clip: Clip) -> dict[str, Any]:
        """What must be the same for all measurements that stand in one table."""
        ...

    def rates(self, clip: Clip) -> tuple[float, int | None]:
        """Frames a second of a file, and samples of sound a second; None where nothing says that."""
        ...

    def title(self, name: str, holds: Mapping[str, Any]) -> str:
        """Model and setting in a line."""
        ...
