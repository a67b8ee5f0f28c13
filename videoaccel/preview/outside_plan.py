"""What a method would do in one generation of a pipeline of diffusers, as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from videoaccel.common.wording import counted, ranges
from videoaccel.planning.fitted import Instead
from videoaccel.session.registry import policy_class, titled


@dataclass(frozen=True)
class Foretold:
    """One evaluation.

    Attributes:
        component: The network.
        order: Of its forecast; of a fitted one, how many outputs it combines, less one; None if it is computed.
        error: Root mean squared error of the value that the scheduler is given, as measured; None if it was not.
        fitted: Whether the shares of the outputs that are combined were fitted in calibration.
    """

    component: str
    order: int | None
    error: float | None = None
    fitted: bool = False

    @property
    def how(self) -> str:
        """What becomes of it, in words."""
        if self.order is None:
            return "computed"
        if self.fitted:
            return f"fitted from {counted(self.order + 1, 'output')}"
        return "held" if self.order == 0 else f"forecast of order {self.order}"


@dataclass(frozen=True)
class OutsidePlan:
    """What a method would do in one generation.

    Attributes:
        pipeline: Class of the pipeline.
        method: Its name.
        fields: Of the method.
        evaluations: One by one; empty for a method that decides while it runs.
        prior: File of the errors that it was planned from; None if it needs none.
        generations: How many were measured for that.
        share: The networks' share of the time when they were; None if it is not known.
        psnr: Expected, where that was measured.
        worst: Likewise, of the worst clip.
        instead: What plain steps, as many or fewer, kept of the same clips; None if it was not measured.
        note: What the method says.
    """

    pipeline: str
    method: str
    fields: Mapping[str, Any]
    evaluations: tuple[Foretold, ...]
    prior: str | None = None
    generations: int = 0
    share: float | None = None
    psnr: float | None = None
    worst: float | None = None
    instead: Instead | None = None
    note: str | None = None

    @property
    def computed(self) -> list[int]:
        """Numbers of the evaluations in which networks run."""
        return [number for number, one in enumerate(self.evaluations) if one.order is None]

    @property
    def speedup(self) -> float | None:
        """How many times less the networks run; None if that is not foretold."""
        return len(self.evaluations) / len(self.computed) if self.computed else None

    @property
    def whole(self) -> float | None:
        """How many times faster a whole call would be; None if the networks' share is not known."""
        if self.speedup is None or self.share is None:
            return None
        return 1 / (1 - self.share + self.share / self.speedup)

    def as_data(self) -> dict[str, Any]:
        """As JSON has it."""
        more = {"computed": self.computed, "speedup": self.speedup, "whole_speedup": self.whole}
        return {**asdict(self), **more, "instead": None if self.instead is None else self.instead._asdict()}

    def described(self, *, asked: str | None = None) -> str:
        """The plan in lines for people.

        Args:
            asked: The name by which the method was asked for, if it is another than its own.
        """
        usual = policy_class(self.method)().model_dump(mode="json")
        changed = [f"{name} {_short(value)}" for name, value in self.fields.items() if value != usual[name]]
        with_fields = f" ({', '.join(changed)})" if changed else ""
        lines = [f"{titled(asked or self.method, self.method)}{with_fields} on {self.pipeline}"]
        if self.prior is not None:
            lines.append(f"  measured errors: {self.prior} ({counted(self.generations, 'generation')})")
        if self.note:
            lines.append(f"  {self.note}")
        if not self.evaluations:
            return "\n".join([*lines, *([] if self.note else ["  it decides while it runs, so nothing is foretold"])])
        lines.append(f"  predicted: {self._gain()}")
        if self.psnr is not None:
            worst = "" if self.worst is None else f", {self.worst:.1f} the worst"
            lines.append(
                f"  expected quality: {self.psnr:.1f} dB PSNR to the plain clip, calibration clips' mean{worst}"
            )
        if self.instead is not None:
            lines.append(f"  {self.instead}")
        lines.append(f"  computed: {len(self.computed)} of {len(self.evaluations)}: {ranges(self.computed)}")
        return "\n".join([*lines, *self._served()])

    def __str__(self) -> str:
        return self.described()

    def __repr__(self) -> str:
        told = ["it decides while it runs"]
        if self.evaluations:
            told = [f"{len(self.computed)} of {counted(len(self.evaluations), 'evaluation')} computed", self._gain()]
            told += [] if self.psnr is None else [f"{self.psnr:.1f} dB expected"]
        return f"<OutsidePlan {self.method} on {self.pipeline}: {', '.join(told)}>"

    def _gain(self) -> str:
        whole = "" if self.whole is None else f", {self.whole:.2f}x of a whole call ({self.share:.0%} is the networks')"
        return f"{self.speedup:.2f}x fewer evaluations of the networks{whole}"

    def _served(self) -> list[str]:
        """Evaluations that are not computed, those that are served alike in one line."""
        lines = []
        for order, fitted in sorted({(one.order, one.fitted) for one in self.evaluations if one.order is not None}):
            alike = [(i, one) for i, one in enumerate(self.evaluations) if (one.order, one.fitted) == (order, fitted)]
            errors = [one.error for _, one in alike if one.error is not None]
            told = f", expected errors up to {max(errors):.3g}" if errors else ""
            lines.append(f"  {alike[0][1].how}: {ranges(i for i, _ in alike)}{told}")
        return lines


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
