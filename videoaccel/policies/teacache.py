"""TeaCache: run the network again once its output is expected to have changed enough.

Source: Timestep Embedding Aware Cache (arXiv 2411.19108). Before the blocks run, the input of the first block as its
attention sees it is compared with that of the step before; a polynomial turns this change into the change that is to be
expected of what the blocks add, and the expected changes are summed until they reach the threshold. The published
polynomial was fitted to Open-Sora 1.2 at 480p, 51 frames, 30 steps on 70 prompts; there thresholds of 0.1, 0.2, 0.3 and
0.5 compute about 19, 12, 9 and 7 of 30 steps. Elsewhere the polynomial is fitted to this model's own dense runs.
"""

from collections.abc import Callable
from typing import ClassVar, cast

import numpy as np
from numpy.polynomial import Polynomial
from pydantic import Field
from torch import Tensor

from videoaccel.policies._trunk import (
    AccumulatingSession,
    Constants,
    TrunkProbe,
    by_step,
    modulated,
    quotients,
    require_steps,
    sums,
    table,
)
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import COMPUTE, REUSE, Action, Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Probe, Session

PUBLISHED = (0.0484426, -0.0459364, 26.866, -118.329, 217.546)
"""Coefficients of the released polynomial, lowest power first."""


class TeaCache(Policy):
    """Serve what all blocks added, until the change foretold by the first block's input sums up to a threshold."""

    knob: ClassVar[str] = "threshold"
    sweep: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    needs: ClassVar[tuple[str, ...]] = ("teacache.probe", "teacache.output")

    threshold: float = Field(
        0.2, ge=0, description="Sum of expected relative changes at which the network runs again; at 0 always."
    )
    degree: int = Field(4, ge=0, le=8, description="Degree of the polynomial that is fitted to the calibrated changes.")
    constants: Constants = Field("calibrated", description="Whether the polynomial is fitted or the published one.")

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe:
        """Measures how much the probe and the blocks' residual change from step to step, [B, N] each."""
        require_steps(job, 2, "teacache's calibration")
        return _TeaCacheProbe(job, mix=mix)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`. First and last step are always computed, so three steps are the least."""
        if self.constants == "published":
            require_steps(job, 3, "teacache")
            return _TeaCacheSession(job, mix, self.threshold, cast(Callable[[float], float], Polynomial(PUBLISHED)))
        require_steps(job, max(3, self.degree + 2), f"teacache with a polynomial of degree {self.degree}")
        probe, output = (table(job, name).numpy()[1:] for name in self.needs)
        return _TeaCacheSession(job, mix, self.threshold, fit(probe, output, self.degree))


def fit(probe: np.ndarray, output: np.ndarray, degree: int) -> Callable[[float], float]:
    """The polynomial that turns a change of the probe into one of the output, by least squares.

    It is not asked outside the range that it was fitted on, where a polynomial means nothing, and never says less than
    no change.
    """
    curve, low, high = Polynomial.fit(probe, output, degree), probe.min(), probe.max()

    def expected(change: float) -> float:
        return max(float(curve(min(max(change, low), high))), 0.0)

    return expected


class _TeaCacheSession(AccumulatingSession):
    def __init__(self, job: Job, mix: Mix, threshold: float, curve: Callable[[float], float]) -> None:
        super().__init__(job, mix=mix, threshold=threshold)
        self._curve = curve

    def expected(self, change: float) -> float:
        return self._curve(change)

    def decide(self, place: Place, seen: Seen) -> Action:
        before, self.before = self.before, modulated(seen)
        if before is None or self.i in (0, self.job.steps - 1):
            return COMPUTE
        changes = quotients(self.to_host(sums(self.before, before, self.job)))
        return COMPUTE if self.due(changes) else REUSE


class _TeaCacheProbe(TrunkProbe):
    def __init__(self, job: Job, *, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self._before: dict[str, Tensor] = {}
        self._stats: dict[str, list[Tensor]] = {"teacache.probe": [], "teacache.output": []}

    def entered(self, seen: Seen) -> None:
        self._compare("teacache.probe", modulated(seen))

    def left(self, residual: Tensor) -> None:
        self._compare("teacache.output", residual)

    def _compare(self, name: str, now: Tensor) -> None:
        if name in self._before:
            self._stats[name].append(sums(now, self._before[name], self.job))
        self._before[name] = now

    def tables(self) -> dict[str, Tensor]:
        return {name: by_step(stats, self.job) for name, stats in self._stats.items()}
