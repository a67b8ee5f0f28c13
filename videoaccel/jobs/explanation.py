"""What a method did in one clip, for people: step by module, the errors it expected, and what looks wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from videoaccel.common.wording import ranges, short
from videoaccel.planning.plan_report import PlanReport
from videoaccel.session.action_grid import LETTERS, NAMES, as_letters
from videoaccel.session.actions import Place
from videoaccel.session.policy import Session

COLLAPSED = 1e-3
"""Relative distance of the guidance branches below which they say the same."""


@dataclass(frozen=True)
class Explanation:
    """One run, explained.

    Attributes:
        report: What was done, and what it cost.
        errors: For every step the relative error expected at places that were not computed.
        guidance: By step how far the guidance branches were apart where both ran; None where that is not known.
        idle: That nothing was gained, in sentences.
    """

    report: PlanReport
    errors: tuple[Mapping[Place, float], ...]
    guidance: Mapping[int, float] | None
    idle: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What the user should know, in sentences."""
        found = list(self.idle)
        collapsed = [step for step, apart in (self.guidance or {}).items() if apart < COLLAPSED]
        if collapsed:
            found.append(f"guidance collapsed: both branches say the same in steps {ranges(collapsed)}")
        return found

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "letters": dict(zip(LETTERS, NAMES, strict=True)),
            **as_letters(self.report.steps, self.report.shares, self.report.blocks),
            "expected_errors": [{str(place): round(e, 6) for place, e in step.items()} for step in self.errors],
            "flops_share": round(self.report.flops_share, 4),
            "guidance": None if self.guidance is None else {step: round(x, 6) for step, x in self.guidance.items()},
            "warnings": self.warnings,
        }


def gained_nothing(session: Session, *, method: str, steps: int) -> list[str]:
    """Sentences on a finished run of so many asked steps that computed everything; none of one that did not."""
    return [f"{method} gained nothing: {reason}" for reason in session.idle] if len(session.trace) == steps else []


def explain(session: Session, *, method: str, steps: int, fields: Mapping[str, Any] | None = None) -> Explanation:
    """Explain a finished run.

    Args:
        session: Of the run; guidance is known if `Session.note_guidance` was called before it.
        method: What it is called.
        steps: Steps that were asked for.
        fields: The method's configuration.
    """
    if not isinstance(session, Session):
        raise ValueError(
            f"explain takes the session of a run, which `sessions=[]` of a call collects, got {short(session)}"
        )
    job = session.job
    assert job.costs is not None
    with torch.inference_mode():
        flops = job.costs("flops")
    report = PlanReport(
        method=method,
        fields=fields or {},
        asked=steps,
        steps=tuple(session.trace),
        shares=tuple(session.shares),
        blocks=job.blocks,
        flops=flops,
        ms=None,
        error=None,
        adaptive=False,
        cache_bytes=session.peak_bytes,
    )
    guidance = None if session.guidance is None else {step: float(x) for step, x in session.guidance.items()}
    idle = gained_nothing(session, method=method, steps=steps)
    return Explanation(report, tuple(session.errors), guidance or None, tuple(idle))
