"""SADA by what the scheduler is given: guided values say whether the networks may rest, and outputs are extrapolated.

Every scheduler is taken. The criterion looks at the value that is given to ``step``, whatever made it of the branches,
and needs no guidance scale; where the networks rest, the output of every call is extrapolated over the timestep (over
the number of the evaluation where timesteps occur twice). On the schedules of :mod:`videoaccel.adapters.solvers` both
are done for the data prediction, over the log-SNR. A batch rests if all its samples may.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.methods import Rules
from videoaccel.adapters.rule import NOTHING_BEFORE, Course, Due, Evaluation, Refused, Serve, Stepped, StepRule
from videoaccel.adapters.solvers import Preserving, is_flow, preserving
from videoaccel.policies._sada_stability import Rules as Judgement
from videoaccel.policies._sada_stability import Track, make_track
from videoaccel.policies.sada import Sada

WINDOW = Due("the first, the last, or its late period")


def rules(policy: Sada) -> Rules:
    """With the criterion, the windows and the extrapolation of the method.

    Raises:
        ValueError: Columns are to be kept, which takes a look into the network.
    """
    if policy.keep is not None:
        raise ValueError("keep needs this project's networks; outside them sada skips whole steps")
    return lambda: SadaRule(policy)


class SadaRule(StepRule):
    """One segment.

    Attributes:
        tracks: What is known of every sample of every step of an evaluation.
    """

    listens = True

    def __init__(self, policy: Sada) -> None:
        self.policy = policy
        late = policy.multistep_terms if policy.multistep_from is not None else 0
        self.keeps, self.least = max(policy.terms, late), policy.terms
        self.tracks: list[Track] = []
        self._component: str | None = None
        self._course: Course | None = None
        self._solver: Preserving | None = None
        self._along: tuple[float, ...] = ()

    def space(self, course: Course) -> Preserving | None:
        """See :meth:`StepRule.space`."""
        self._follow(course)
        return self._solver

    def decide(self, now: Evaluation) -> Serve | Refused | Due:
        """See :meth:`StepRule.decide`."""
        self._follow(now.course)
        if now.component != self._component:
            self._component, self.tracks = now.component, []  # another network's values say nothing of this one's
        policy = self.policy
        try:
            policy.require(now.n)
        except ValueError as error:
            return Refused(str(error))
        if policy.criterion == "official" and not is_flow(now.course.scheduler):
            return Refused(f"the criterion official is for flows, not for {type(now.course.scheduler).__name__}")
        windows = policy.windows(now.n)
        told = windows.told(now.i)
        known = bool(self.tracks) and all(len(track.nodes) >= policy.terms for track in self.tracks)
        if not known or told is True:
            return WINDOW if told is True else NOTHING_BEFORE
        if told is None and (obstacle := self._obstacle(self._along[now.i])) is not None:
            return Due(obstacle)
        terms = policy.multistep_terms if now.i >= windows.late else policy.terms
        return Serve(terms - 1, along=self._along)

    def ended(self, now: Evaluation, *, computed: bool, steps: Sequence[Stepped]) -> None:
        """See :meth:`StepRule.ended`."""
        self._follow(now.course)
        if not computed:
            for track in self.tracks:
                track.run += 1
            return
        if not steps:
            return
        count = sum(len(step.value) for step in steps)
        if len(self.tracks) != count or any(
            track.nodes and track.nodes[-1].value.shape != value.shape
            for track, value in zip(self.tracks, (row for step in steps for row in step.value), strict=False)
        ):
            judgement = self.policy.rules(now.n)
            self.tracks = [_track(judgement, gradient=self._by_gradient) for _ in range(count)]
        tracks = iter(self.tracks)
        for step in steps:
            self._learn(now, step, tracks)

    @property
    def _by_gradient(self) -> bool:
        return self._solver is not None and self.policy.criterion in ("paper", "ab2")

    def _follow(self, course: Course) -> None:
        """Take in where the evaluations stand."""
        if course is self._course:
            return
        self._course = course
        self._solver = preserving(course.scheduler) if course.n else None
        repeated = len(set(course.times)) < course.n
        if self._solver is not None and not repeated:
            self._along = tuple(map(self._solver.axis, course.places))
        else:
            self._along = tuple(map(float, range(course.n))) if repeated else course.times

    def _learn(self, now: Evaluation, step: Stepped, tracks: Any) -> None:
        """Take in the samples of one step."""
        solver, at, place = self._solver, self._along[now.i], now.course.places[now.i]
        value = step.value.detach().to(torch.float32, copy=True)
        x = step.sample if solver is None else solver.latent(place, step.sample)
        if solver is not None:
            value = solver.known(place, x, value)
        moved: Tensor | None = step.result if now.i + 1 < now.n else None
        for b, row in enumerate(value):
            track = next(tracks)
            track.computed(at, row)
            if solver is not None and isinstance(track, _GradientTrack):
                track.felt(solver.time(place), x[b], solver.gradient(place, x[b], row))
                if moved is not None:
                    track.moved(solver.time(place + 1), solver.latent(place + 1, moved[b]))

    def _obstacle(self, at: float) -> str | None:
        """Why an evaluation may not be left out; None if it may."""
        waiting = [(track, track.pending) for track in self.tracks if track.pending is not None]
        if waiting:
            numbers = self.agree(torch.stack([pending for _, pending in waiting])).tolist()
            for (track, _), sums in zip(waiting, numbers, strict=True):
                track.judge(sums)
        return next((found for track in self.tracks if (found := track.obstacle(at)) is not None), None)


class _GradientTrack(Track):
    """The sign tests where the latent moves along a curve: its gradients by time, and where the solver took it."""

    def forget(self) -> None:
        super().forget()
        self._gradients: list[tuple[float, Tensor]] = []
        self._x = torch.zeros(())

    def computed(self, at: float, value: Tensor, weight: Tensor | None = None, *, degraded: bool = False) -> None:
        super().computed(at, value, weight, degraded=degraded)
        self.pending = self.unstable = None  # it is judged by gradients alone

    def felt(self, time: float, x: Tensor, gradient: Tensor) -> None:
        """At x, in the computed step."""
        self._gradients = [*self._gradients, (time, gradient)][-3:]
        self._x = x

    def moved(self, time: float, x: Tensor) -> None:
        """The solver has gone from there to x: was the extrapolation on the same side as the curve bends?"""
        if len(self._gradients) < 3:
            return
        (oldest, y2), (middle, y1), (newest, y0) = self._gradients
        h = newest - time
        late, early = (y0 - y1) * h / (middle - newest), (y1 - y2) * h / (oldest - middle)
        lead = late / 2 if self.rules.criterion == "ab2" else 2 / 3 * early - late / 6
        self._judge_by((x.float() - (self._x - h * (y0 + lead))) * (late - early), None)


def _track(judgement: Judgement, *, gradient: bool) -> Track:
    return _GradientTrack(judgement) if gradient else make_track(judgement)
