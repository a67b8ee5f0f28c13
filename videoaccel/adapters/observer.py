"""Who watches a generation."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from videoaccel.adapters.rule import Evaluation, Stepped
from videoaccel.adapters.streams import Stream


class Observer(Protocol):
    """Is told all that happens; changes nothing."""

    def began(self) -> None:
        """A generation begins."""

    def called(self, now: Evaluation, stream: Stream, x: Tensor | None, output: Any, *, computed: bool) -> None:
        """A call of an evaluation has its output."""

    def felt(self, now: Evaluation, stream: Stream, signals: Mapping[str, Tensor], output: Any) -> None:
        """The first call of an evaluation was computed, and blocks did this in it, [G, P] each."""

    def stepped(self, now: Evaluation | None, step: Stepped) -> None:
        """The scheduler has stepped after an evaluation; None before any."""

    def ended(self, *, failed: bool) -> None:
        """It is over."""
