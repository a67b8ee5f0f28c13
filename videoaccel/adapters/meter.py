"""Watches dense generations of a pipeline, and keeps what methods plan with: how the scheduler's values change.

Of large latents a fixed sample of positions is kept, so that memory is bounded whatever is generated: means of squared
errors over a million positions are off by a thousandth.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.guidance_fit import Fit, fit, terms_of
from videoaccel.adapters.measured import Measured
from videoaccel.adapters.rule import Evaluation, Stepped
from videoaccel.adapters.streams import Stream

POSITIONS = 2**20
"""Of a sample's latent, at most so many values are kept."""

Done = Callable[[list[Measured]], None]
"""Told the segments of a generation, those that were seen whole, when it has ended well."""


class Meter:
    """An observer; it may stay attached while nothing is measured.

    Args:
        done: Gets what was measured.

    Attributes:
        on: Whether it measures the generations that begin from now on.
    """

    def __init__(self, done: Done) -> None:
        self.on, self._done = False, done
        self._segments: list[Measured] = []
        self._outputs: list[Any] = []
        self._at = -1
        self._active = False

    def began(self) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
        self._segments, self._outputs, self._at, self._active = [], [], -1, self.on

    def called(self, now: Evaluation, stream: Stream, x: Tensor | None, output: Any, *, computed: bool) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
        if not self._active:
            return
        if now.number != self._at:
            self._at, self._outputs = now.number, []
            if now.i == 0 or not self._segments:
                self._segments.append(Measured())
            self._segments[-1].components.append(now.component)
        self._outputs.append(output)

    def stepped(self, now: Evaluation | None, step: Stepped) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
        if not self._active or now is None or not self._segments:
            return
        segment, value = self._segments[-1], step.value.detach()
        segment.levels = now.course.sigmas or now.course.times
        if len(segment.values) < len(segment.components):
            segment.values.append([])
            segment.fits.append(self._fit(value))
        if segment.values:
            segment.values[-1].append(_kept(value))

    def ended(self, *, failed: bool) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
        segments, self._segments, self._outputs = self._segments, [], []
        if self._active and not failed:
            self._done([segment for segment in segments if segment.whole])

    def _fit(self, value: Tensor) -> Fit | None:
        terms: list[Tensor] = []
        for output in self._outputs:
            found = terms_of(output, value)
            if found is None:
                return None
            terms += found
        return fit(terms, value) if terms else None


def _kept(value: Tensor) -> Tensor:
    """[B, ...] in float32 on the CPU; of large ones [B, P] at the same positions every time."""
    if value[0].numel() > POSITIONS:
        flat = value.flatten(1)
        places = torch.randint(flat.shape[1], (POSITIONS,), generator=torch.Generator().manual_seed(0))
        value = flat[:, places.to(flat.device)]
    return value.to("cpu", torch.float32, copy=True)
