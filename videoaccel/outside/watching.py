"""The method of an order on a pipeline, and steps told to whoever listens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from videoaccel.adapters.attach import Attachment, attach, takes_attachments
from videoaccel.adapters.rule import Evaluation, Stepped, StepRule
from videoaccel.adapters.streams import Stream
from videoaccel.common.stages import Listener
from videoaccel.generation.accelerate import accelerate
from videoaccel.outside.order import OutsideOrder


@contextmanager
def accelerated(pipe: Any, order: OutsideOrder, observer: Any) -> Iterator[Attachment | None]:
    """Attach the method of an order, or a watch that computes everything; None of a pipeline that cannot be watched.

    Raises:
        ValueError: The method cannot be had on this pipeline.
    """
    s, policy = order.settings, order.policy
    fast: Attachment | None = None
    if policy is not None:
        fast = accelerate(
            pipe,
            s.accel or policy.name,
            prior=s.prior,
            foreign_prior=s.allow_foreign_prior,
            calibrate=True if s.measure_first is None else s.measure_first,
            of=s.speedup_of or "denoiser",
            **{name: getattr(policy, name) for name in policy.model_fields_set},
        )
    elif takes_attachments(pipe):
        try:
            fast = attach(pipe, StepRule, method="off")
        except ValueError:  # nothing to watch calls by, and nothing was asked for
            fast = None
    if fast is None:
        yield None
        return
    fast.observe(observer)
    with fast:
        yield fast


class StepTeller:
    """Tells a listener of every step of the scheduler."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener

    def began(self) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""

    def called(self, now: Evaluation, stream: Stream, x: Tensor | None, output: Any, *, computed: bool) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""

    def felt(self, now: Evaluation, stream: Stream, signals: Mapping[str, Tensor], output: Any) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""

    def stepped(self, now: Evaluation | None, step: Stepped) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
        if self._listener is not None and now is not None:
            self._listener("denoise", now.i + 1, max(now.n, now.i + 1))

    def ended(self, *, failed: bool) -> None:
        """See :class:`videoaccel.adapters.generation.Observer`."""
