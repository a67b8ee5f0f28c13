"""LeMiCa: of all schedules with so many computed steps, the one whose worst error is smallest.

Source: Lexicographic Minimax Path Caching (arXiv 2511.00090). An edge from step i to step j stands for computing i,
serving what all blocks added there until j, and computing j; its weight is the error that this alone makes in the
finished latents, replayed offline and averaged over samples. A schedule is a path from the first step to the end, and
the best one has the smallest largest error, then the smallest second largest, and so on. Published budgets for Open-
Sora 1.2 are 19, 12, 9 and 7 of 30 steps; no table of errors was published, so it must be calibrated.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from videoaccel.policies._trunk import TrunkSession, require_steps, table
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class LeMiCa(Policy):
    """Serve what all blocks added on the schedule whose errors in the finished clip are smallest."""

    knob: ClassVar[str] = "budget"
    sweep: ClassVar[tuple[int, ...]] = (19, 15, 12, 10, 9, 7)
    needs: ClassVar[tuple[str, ...]] = ("lemica.error",)

    budget: int = Field(12, ge=1, description="Steps to compute.")

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, self.budget, f"lemica with a budget of {self.budget}")
        errors = table(job, "lemica.error", published=False)
        return _LeMiCaSession(job, mix, minimax_path(errors.tolist(), self.budget))


def minimax_path(errors: Sequence[Sequence[float]], budget: int) -> list[int]:
    """The ``budget`` steps to compute, starting with step 0, that make the errors lexicographically smallest.

    Errors of a schedule are compared sorted from the largest down. Two schedules keep their order when the same error
    is added to both, so the best path to a step goes through best paths: N * budget * G comparisons.

    Args:
        errors: ``errors[i][g]`` of computing step i and then step i + g + 1 (the end, if that is the number of steps).
            Infinite or NaN where nothing was measured.
        budget: Number of steps on the path.

    Raises:
        ValueError: The gaps in the table are too short for so few steps.
    """
    steps = len(errors)
    reached: dict[int, tuple[list[float], list[int]]] = {0: ([], [])}
    for _ in range(budget):
        further: dict[int, tuple[list[float], list[int]]] = {}
        for i, (worst, path) in reached.items():
            for j, error in enumerate(errors[i][: steps - i], start=i + 1):
                if not math.isfinite(error):
                    continue
                longer = sorted([*worst, error], reverse=True), [*path, i]
                if j not in further or longer < further[j]:
                    further[j] = longer
        further_steps = {j: found for j, found in further.items() if j < steps}
        reached, end = further_steps, further.get(steps)
    if end is None:
        gap = max(len(row) for row in errors)
        raise ValueError(f"no schedule computes {budget} of {steps} steps with gaps of at most {gap}, as in the prior")
    return end[1]


class _LeMiCaSession(TrunkSession):
    def __init__(self, job: Job, mix: Mix, path: Sequence[int]) -> None:
        super().__init__(job, mix=mix)
        self.path = frozenset(path)

    def decide(self, place: Place, seen: Seen) -> Action:
        return COMPUTE if self.i in self.path else REUSE
