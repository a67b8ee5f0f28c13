"""Watches dense generations of a pipeline, and keeps what methods plan with: how the scheduler's values change.

Of large latents a fixed sample of positions is kept, so that memory is bounded whatever is generated: means of squared
errors over a million positions are off by a thousandth.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.blocks import MIDDLE, MODULATED
from videoaccel.adapters.guidance_fit import Fit, fit, terms_of
from videoaccel.adapters.measured import Measured
from videoaccel.adapters.outputs import taken_apart
from videoaccel.adapters.refusals import forbidden
from videoaccel.adapters.rule import Evaluation, Stepped
from videoaccel.adapters.signals import Sampler, relative
from videoaccel.adapters.streams import Stream

POSITIONS = 2**20
"""Of a sample's latent, at most so many values are kept."""

TABLES = {MODULATED: "teacache.probe", MIDDLE: "adacache.distance"}
"""By signal, the table of its changes."""

Done = Callable[[list[Measured]], None]
"""Told the segments of a generation, those that were seen whole, when it has ended well."""


class Meter:
    """An observer; it may stay attached while nothing is measured.

    Args:
        done: Gets what was measured.

    Attributes:
        on: Whether it measures the generations that begin from now on.
        refused: Why nothing may be forecast in generations such as the last one, whose errors then tell nothing; None
            if something may.
    """

    def __init__(self, done: Done) -> None:
        self.on, self._done = False, done
        self.refused: str | None = None
        self._free = False
        self._segments: list[Measured] = []
        self._outputs: list[Any] = []
        self._at = -1
        self._active = False
        self._before: dict[str, tuple[Stream, Tensor]] = {}
        self._sampler = Sampler()

    def began(self) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""
        self._segments, self._outputs, self._at, self._active = [], [], -1, self.on
        self._before, self.refused, self._free = {}, None, False

    def called(self, now: Evaluation, stream: Stream, x: Tensor | None, output: Any, *, computed: bool) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""
        if not self._active:
            return
        self._enter(now)
        self._outputs.append(output)

    def felt(self, now: Evaluation, stream: Stream, signals: Mapping[str, Tensor], output: Any) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""
        if not self._active:
            return
        self._enter(now)
        parts = taken_apart(output)
        leaf = None if parts is None else next((one for one in parts.leaves if isinstance(one, Tensor)), None)
        rows = next((len(signal) for signal in signals.values()), 1)
        found = {TABLES[name]: signal for name, signal in signals.items() if name in TABLES}
        if leaf is not None and MODULATED in signals:
            found["teacache.output"] = self._sampler(leaf, rows)
        for name, value in found.items():
            before = self._before.get(name)
            alike = before is not None and before[0] == stream
            told = relative(value, before[1]) if before is not None and alike else [math.nan]
            self._segments[-1].changes.setdefault(name, []).append(sum(told) / len(told))
            self._before[name] = stream, value

    def stepped(self, now: Evaluation | None, step: Stepped) -> None:
        """See :class:`videoaccel.adapters.observer.Observer`."""
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
        """See :class:`videoaccel.adapters.observer.Observer`."""
        segments, self._segments, self._outputs, self._before = self._segments, [], [], {}
        if self._active and not failed:
            self._done([segment for segment in segments if segment.whole])

    def _enter(self, now: Evaluation) -> None:
        if now.number == self._at:
            return
        self._at, self._outputs = now.number, []
        reason = forbidden(now, apart=False)
        self._free |= now.course.certain and reason is None
        self.refused = None if self._free else reason or self.refused
        if now.i == 0 or not self._segments:
            self._segments.append(Measured())
        self._segments[-1].components.append(now.component)

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
