"""One generation of a pipeline of diffusers under SADA: what was heard, what may be skipped, what is said instead.

Shape legend: R rows of a call (guidance branches times samples, or samples), B samples, C latent channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.solvers import Preserving, solver_of
from videoaccel.policies._sada_stability import Node, Rules, Track, extrapolate, make_track
from videoaccel.policies.sada import Sada


class Steps:
    """One generation.

    Attributes:
        i: The present step; -1 before the first.
        skips: Whether the denoiser rests in it.
        nodes: What was computed, by guidance branch, [R, ...].
        form: Class of the denoiser's outputs; None if they are tuples.
    """

    def __init__(self, policy: Sada, scheduler: Any, x: Tensor) -> None:
        self.timesteps, self.shape = scheduler.timesteps, x.shape
        self.solver: Any = solver_of(scheduler)
        policy.require(self.solver.steps)
        self.policy, self.windows = policy, policy.windows(self.solver.steps)
        self.rules = policy.rules(self.solver.steps)
        preserving = isinstance(self.solver, Preserving)
        if self.rules.criterion == "official" and preserving:
            raise ValueError(f"the criterion official is for flows, not for {type(scheduler).__name__}")
        self._by_gradient = preserving and self.rules.criterion in ("paper", "ab2")
        self.i, self.skips = -1, False
        self.tracks: list[Any] = []
        self.nodes: dict[str | None, list[Node]] = {}
        self.form: Any = None
        self._heard: dict[str | None, Tensor] = {}
        self._latent, self._dtype, self._channels = x, x.dtype, x.shape[1]

    @property
    def branches(self) -> tuple[str | None, ...]:
        """Guidance branches heard since the present step began, or, on its entry, in the last computed one."""
        return tuple(self._heard)

    def enter(self, i: int, x: Tensor, *, scale: float, samples: int) -> None:
        """A new step at x [R, ...]: take in what was heard in the last one, and decide about this one."""
        if self._heard:
            self._learn(scale, samples)
            if self._by_gradient:
                for track, moved in zip(self.tracks, self._latent_part(x)[:samples], strict=True):
                    track.moved(self.solver.time(i), moved)
        self.i, self._heard = i, {}
        self.skips = self._decide(i)
        for track in self.tracks:
            track.run += self.skips

    def heard(self, branch: str | None, x: Tensor, out: Any) -> None:
        """The denoiser ran in the present step. A branch that joins in while the others rest is not learned from."""
        self.form = None if isinstance(out, tuple) else type(out)
        if not self.skips:
            self._dtype, self._channels = out[0].dtype, out[0].shape[1]
            self._latent = x
            self._heard[branch] = self.solver.known(self.i, self._latent_part(x), out[0])

    def foretold(self, branch: str | None, x: Tensor) -> Tensor:
        """What the denoiser would say at x [R, ...]."""
        terms = self.policy.multistep_terms if self.i >= self.windows.late else self.policy.terms
        known = extrapolate(self.solver.axis(self.i), self.nodes[branch][-terms:])
        return self.solver.output(self.i, self._latent_part(x), known).to(self._dtype)

    def _latent_part(self, x: Tensor) -> Tensor:
        """The latent among the denoiser's input channels: what it is to paint into comes behind."""
        return x[:, : self._channels]

    def _learn(self, scale: float, samples: int) -> None:
        """Nodes and statistics of the step that has ended."""
        shapes = {branch: nodes[-1].value.shape for branch, nodes in self.nodes.items()}
        if shapes != {branch: value.shape for branch, value in self._heard.items()}:  # guidance came or went
            self.nodes = {branch: [] for branch in self._heard}
            self.tracks = [_make_track(self.rules, gradient=self._by_gradient) for _ in range(samples)]
        at = self.solver.axis(self.i)
        for branch, value in self._heard.items():
            self.nodes[branch] = [*self.nodes[branch], Node(at, value)][-self.rules.history :]
        guided = _guided(self._heard, scale, samples)
        for b, track in enumerate(self.tracks):
            track.computed(at, guided[b])
            if self._by_gradient:
                x = self._latent_part(self._latent)[b]
                track.felt(self.solver.time(self.i), x.float(), self.solver.gradient(self.i, x, guided[b]))

    def _decide(self, i: int) -> bool:
        """Whether the denoiser may rest in a step."""
        known = bool(self.tracks) and all(len(nodes) >= self.policy.terms for nodes in self.nodes.values())
        told = self.windows.told(i)
        if told is not None or not known:
            return known and told is False
        if waiting := [track for track in self.tracks if track.pending is not None]:
            for track, numbers in zip(waiting, torch.stack([track.pending for track in waiting]).tolist(), strict=True):
                track.judge(numbers)
        at = self.solver.axis(i)
        return all(track.may_skip(at) for track in self.tracks)


def _guided(heard: Mapping[str | None, Tensor], scale: float, samples: int) -> Tensor:
    """Guided predictions [B, ...] of the branches that were heard.

    Raises:
        ValueError: The branches have other names than ``cond`` and ``uncond``.
    """
    if len(heard) == 1:
        (value,) = heard.values()
        if len(value) == samples:
            return value
        uncond, cond = value.chunk(2)
    elif heard.keys() == {"cond", "uncond"}:
        cond, uncond = heard["cond"], heard["uncond"]
    else:
        raise ValueError(f"sada knows the guidance branches cond and uncond, not {', '.join(map(str, heard))}")
    return uncond + scale * (cond - uncond)


class _GradientTrack(Track):
    """The sign tests where the latent moves along a curve: its gradients by time, and where the solver took it."""

    def forget(self) -> None:
        super().forget()
        self._gradients: list[tuple[float, Tensor]] = []
        self._x = torch.zeros(())

    def computed(self, at: float, value: Tensor, weight: Tensor | None = None, *, degraded: bool = False) -> None:
        self.nodes = [*self.nodes, Node(at, value, degraded)][-self.rules.history :]
        self.run, self._stable, self.pending = 0, False, None

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


def _make_track(rules: Rules, *, gradient: bool) -> Track:
    return _GradientTrack(rules) if gradient else make_track(rules)
