"""What a method would do, or has done: actions by step and place, and what they cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoaccel.common.wording import as_bytes, counted, ranges
from videoaccel.models.seam import Site
from videoaccel.session.action_grid import spread
from videoaccel.session.actions import COMPUTE, Action, Combine, Place
from videoaccel.session.costs import Costs, flops_share
from videoaccel.session.registry import policy_class, titled
from videoaccel.settings.method_fields import DOT, SIGN


@dataclass(frozen=True)
class PlanReport:
    """What would be done.

    Attributes:
        method: Name of the method.
        fields: Its configuration.
        asked: Steps that were asked for.
        steps: Actions by place, for every step that runs; what is not named is computed.
        shares: For every step the rows of the network call over all rows.
        blocks: The network's blocks, each with its modules.
        flops: Counted costs.
        ms: Measured costs; None if nothing was measured.
        error: The error that the planner expects, in its own unit; None of a method that plans none.
        psnr: In dB to the plain clip, as calibration clips had on average with such a plan; None if that is not known.
        worst_psnr: What the worst of them had; None if that is not known.
        adaptive: Whether decisions depend on the clip; the actions, decided on random numbers, then foretell nothing.
        cache_bytes: Most memory that stored values will take.
        prior: Where the calibrated errors are from; None if there are none.
        interpolated: In what the prior was made for something else.
    """

    method: str
    fields: Mapping[str, Any]
    asked: int
    steps: tuple[Mapping[Place, Action], ...]
    shares: tuple[float, ...]
    blocks: Mapping[Site, tuple[Site, ...]]
    flops: Costs
    ms: Costs | None
    error: float | None
    adaptive: bool
    psnr: float | None = None
    worst_psnr: float | None = None
    cache_bytes: int = 0
    prior: Path | None = None
    interpolated: tuple[str, ...] = ()

    def ratio(self, costs: Costs) -> float:
        """How many times cheaper than the steps that were asked for, all computed."""
        spent = costs.total(self.steps, self.shares)
        return self.asked * costs.dense / spent if spent else float("inf")

    @property
    def flops_share(self) -> float:
        """Operations that were done, over those of the steps that were asked for, all computed."""
        return flops_share(self.flops, self.steps, self.shares, asked=self.asked)

    @property
    def anchors(self) -> list[int]:
        """Steps in which everything is computed."""
        return [
            i
            for i, (step, share) in enumerate(zip(self.steps, self.shares, strict=True))
            if share >= 1 and all(action == COMPUTE for action in step.values())
        ]

    def grid(self) -> list[dict[Site, Action]]:
        """What happens at every module in every step, whoever decided it: the network, a span, a block, itself."""
        rows = zip(self.steps, self.shares, strict=True)
        return [spread(step, self.blocks, share=share) for step, share in rows]

    def summary(self) -> list[str]:
        """What happens in each step, in words."""
        return [_words(step, share) for step, share in zip(self.grid(), self.shares, strict=True)]

    def described(self, *, asked: str | None = None) -> str:
        """The plan in lines for people.

        Args:
            asked: The name by which the method was asked for, if it is another than its own.
        """
        lines = [f"{titled(asked or self.method, self.method)}{self._changed()}"]
        lines += [] if self.prior is None else [f"  calibrated errors: {self.prior}"]
        if self.interpolated:
            lines.append(f"  interpolated: they were made for {', '.join(self.interpolated)}")
        if self.adaptive:
            lines.append(f"  stores about {as_bytes(self.cache_bytes)}")
            lines.append("  its decisions depend on the clip, so nothing is foretold; videoaccel compare measures it")
            return "\n".join(lines)
        lines += [f"  predicted: {self._gain()}", f"  stores at most {as_bytes(self.cache_bytes)}"]
        if self.psnr is not None:
            worst = "" if self.worst_psnr is None else f" (the worst: {self.worst_psnr:.1f})"
            lines.append(
                f"  expected quality: {self.psnr:.1f} dB PSNR to the plain clip, calibration clips' mean{worst}"
            )
        elif self.error is not None:
            lines.append(f"  expected error: {self.error:.4g}, to be compared with other plans of {self.method} only")
        total = len(self.steps)
        fewer = "" if total == self.asked else f" ({self.asked} were asked for)"
        lines.append(f"  computed in full: {len(self.anchors)} of {total} steps{fewer}")
        for what, at in gathered(self.summary()).items():
            lines.append(f"  {what}: {'step' if at.isdigit() else 'steps'} {at}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.described()

    def __repr__(self) -> str:
        told = ["it decides while it runs"]
        if not self.adaptive:
            told = [f"{len(self.anchors)} of {len(self.steps)} steps computed in full", self._gain()]
            told += [] if self.psnr is None else [f"{self.psnr:.1f} dB expected"]
        return f"<PlanReport {self.method}: {', '.join(told)}>"

    def _gain(self) -> str:
        gain = f"{self.ratio(self.flops):.2f}x fewer FLOPs"
        if self.ms is None:
            return gain
        dense, taken = self.asked * self.ms.dense / 1000, self.ms.total(self.steps, self.shares) / 1000
        return f"{gain}, {self.ratio(self.ms):.2f}x faster here ({dense:.2f} s to {taken:.2f} s in the network)"

    def _changed(self) -> str:
        """Fields that are not as the method has them by itself, in brackets."""
        names, found = self.method.split(SIGN), []
        for name in names:
            own, usual = self.fields, policy_class(name)().model_dump(mode="json")
            start = ""
            if len(names) > 1:
                own, start = own[name], f"{name}{DOT}"
            found += [f"{start}{field} {value}" for field, value in own.items() if value != usual[field]]
        return f" ({', '.join(found)})" if found else ""

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        data: dict[str, Any] = {
            "method": self.method,
            "fields": dict(self.fields),
            "steps_asked": self.asked,
            "adaptive": self.adaptive,
            "flops_ratio": None if self.adaptive else round(self.ratio(self.flops), 4),
            "flops_dense": self.asked * self.flops.dense,
            "speedup": None if self.ms is None or self.adaptive else round(self.ratio(self.ms), 4),
            "ms_dense": None if self.ms is None else round(self.asked * self.ms.dense, 3),
            "predicted_error": self.error,
            "predicted_psnr": None if self.psnr is None else round(self.psnr, 2),
            "predicted_worst_psnr": None if self.worst_psnr is None else round(self.worst_psnr, 2),
            "anchors": None if self.adaptive else self.anchors,
            "cache_bytes": self.cache_bytes,
            "prior": None if self.prior is None else str(self.prior),
            "prior_interpolated": list(self.interpolated),
        }
        rows = zip(self.steps, self.shares, strict=True)
        data["steps"] = [
            {"rows": share, "actions": {str(place): str(action) for place, action in step.items()}, **_combined(step)}
            for step, share in rows
            if not self.adaptive
        ]
        return data


def _combined(step: Mapping[Place, Action]) -> dict[str, Any]:
    """Coefficients of the last computed values, the newest first, where some are combined."""
    found = {str(place): list(action.weights) for place, action in step.items() if isinstance(action, Combine)}
    return {"coefficients": found} if found else {}


def _words(step: Mapping[Site, Action], share: float) -> str:
    counts = Counter(_called(action) for action in step.values())
    text = (
        next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.most_common())
    )
    return text if share in (0.0, 1.0) else f"{text} ({share:.0%} of the rows)"


def _called(action: Action) -> str:
    """An action in words, where its name in records says little."""
    return f"fitted from {counted(len(action.weights), 'step')}" if isinstance(action, Combine) else str(action)


def gathered(items: Sequence[str]) -> dict[str, str]:
    """Where each different item stands, in ranges.

    >>> gathered(["a", "a", "b", "a", "a", "a"])
    {'a': '0-1, 3-5', 'b': '2'}
    """
    found: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        found.setdefault(item, []).append(i)
    return {item: ranges(steps) for item, steps in found.items()}
