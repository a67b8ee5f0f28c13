"""SADA on pipelines of diffusers: their denoiser is replaced by a module that passes calls on, or answers itself.

Nothing is patched. The module looks like the denoiser it holds, and :meth:`Attached.remove` puts that back. What step
it is, the schedule and the kind of prediction are read from ``pipe.scheduler``; calls are not counted, since some
pipelines call once a step, with both guidance branches in a batch, and some once a branch. A skipped step returns what
the denoiser would say for the extrapolated prediction, so that the scheduler goes on unaware. A batch skips a step if
all its samples may.

Shape legend: R rows of a call (guidance branches times samples, or samples), B samples, C latent channels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from videoaccel.outside_solvers import Preserving, check_scheduler, solver_of
from videoaccel.policies._stability import Node, Rules, Track, extrapolate, make_track
from videoaccel.policies.sada import Sada

COMPONENTS = ("unet", "transformer", "transformer_2")
"""Names that pipelines give their denoisers."""

HALVES = (None, "cond_uncond")
"""Calls whose rows are the unconditional branch followed by the conditional one, if there is guidance."""


class Attached:
    """What accelerates a pipeline; made by :func:`videoaccel.accelerate`.

    Attributes:
        computed: Steps of the last generation in which the denoiser ran.
    """

    def __init__(self, pipe: Any, policy: Sada, *, guidance_scale: float | None = None) -> None:
        self.pipe, self.policy, self.guidance_scale = pipe, policy, guidance_scale
        self.computed: list[int] = []
        self._replaced = denoisers(pipe)
        self._steps: _Steps | None = None
        for name, denoiser in self._replaced.items():
            _put(pipe, name, _Delegate(denoiser, self))

    def remove(self) -> None:
        """Give the pipeline its own denoiser back. A second time it does nothing."""
        for name, denoiser in self._replaced.items():
            _put(self.pipe, name, denoiser)
        self._replaced, self._steps = {}, None

    def call(self, denoiser: nn.Module, branch: str | None, args: Any, kwargs: Any) -> Any:
        """One call of the denoiser, by the pipeline."""
        x = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        steps, i = self._steps_for(x), _step_of(self.pipe.scheduler)
        if steps.i != i:
            halves = branch in HALVES and self._guides()
            steps.enter(i, x, scale=self._scale(denoiser, steps), samples=len(x) // (2 if halves else 1))
            if not steps.skips:
                self.computed.append(i)
        if steps.skips and branch in steps.nodes:
            told = steps.foretold(branch, x)
            return (told,) if steps.form is None else steps.form(sample=told)
        out = denoiser(*args, **kwargs)
        steps.heard(branch, x, out)
        return out

    def _steps_for(self, x: Tensor) -> "_Steps":
        """The generation under way; another one where the scheduler was set anew."""
        timesteps, i = self.pipe.scheduler.timesteps, _step_of(self.pipe.scheduler)
        steps = self._steps
        if steps is None or steps.timesteps is not timesteps or i < steps.i or steps.shape != x.shape:
            self.computed = []
            steps = self._steps = _Steps(self.policy, self.pipe.scheduler, x)
        return steps

    def _guides(self) -> bool:
        if self.guidance_scale is not None:
            return self.guidance_scale > 1
        return bool(getattr(self.pipe, "do_classifier_free_guidance", self.pipe.guidance_scale > 1))

    def _scale(self, denoiser: Any, steps: "_Steps") -> float:
        """The guidance scale in force.

        Raises:
            ValueError: There is guidance, and its scale cannot be read.
        """
        if self.guidance_scale is not None:
            return self.guidance_scale
        if "uncond" in steps.branches and getattr(denoiser.config, "guidance_embeds", False):
            # The pipeline's guidance_scale is a number that the network is told; the other one is not kept.
            raise ValueError(_UNREADABLE.format(type(self.pipe).__name__))
        return float(self.pipe.guidance_scale)


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """A pipeline's denoisers by name; empty if it has none that are known."""
    parts = {name: getattr(pipe, name, None) for name in COMPONENTS}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def attach(pipe: Any, policy: Sada, *, guidance_scale: float | None = None) -> Attached:
    """Accelerate a pipeline of diffusers; one that is accelerated already gets the new policy.

    Args:
        pipe: The pipeline.
        policy: SADA's fields.
        guidance_scale: Where the pipeline does not keep it.

    Raises:
        ValueError: The pipeline has no denoiser or scheduler that is known, or keeps no guidance scale and none
            is given.
    """
    if not denoisers(pipe) or getattr(pipe, "scheduler", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no denoiser and scheduler that sada knows")
    if policy.keep is not None:
        raise ValueError("keep needs this project's networks; outside them sada skips whole steps")
    check_scheduler(pipe.scheduler)
    if guidance_scale is None and not hasattr(type(pipe), "guidance_scale"):
        raise ValueError(_UNREADABLE.format(type(pipe).__name__))
    detach(pipe)
    return Attached(pipe, policy, guidance_scale=guidance_scale)


def detach(pipe: Any) -> None:
    """Give a pipeline its own denoiser back, if it was accelerated."""
    for part in denoisers(pipe).values():
        if type(part) is _Delegate:
            part._attached.remove()


def _put(pipe: Any, name: str, part: nn.Module) -> None:
    """Replace a component, but not what the pipeline's configuration says of it."""
    object.__setattr__(pipe, name, part)


def _step_of(scheduler: Any) -> int:
    """Number of the step that the scheduler is about to take."""
    for name in ("step_index", "begin_index"):
        if (index := getattr(scheduler, name, None)) is not None:
            return int(index)
    return 0


_UNREADABLE = "the guidance scale cannot be read off {}: pass guidance_scale=, the one you generate with"


class _Delegate(nn.Module):
    """Stands where a denoiser stood, and looks like it."""

    def __init__(self, denoiser: nn.Module, attached: Attached) -> None:
        nn.Module.__init__(self)
        self.denoiser = denoiser
        self.__dict__["_attached"], self.__dict__["_branch"] = attached, None

    # Pipelines ask what class their components are.
    __class__ = property(lambda self: type(self.denoiser))

    def __getattr__(self, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            return getattr(nn.Module.__getattr__(self, "denoiser"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Passed on in training, else at most steps."""
        if torch.is_grad_enabled():
            return self.denoiser(*args, **kwargs)
        return self._attached.call(self.denoiser, self._branch, args, kwargs)

    @contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        """The pipeline says which guidance branch it calls."""
        inner = getattr(self.denoiser, "cache_context", None)
        self.__dict__["_branch"] = name
        try:
            with nullcontext() if inner is None else inner(name, **kwargs):
                yield
        finally:
            self.__dict__["_branch"] = None

    # Weights have the names that they have in the denoiser.

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's."""
        return self.denoiser.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's."""
        return self.denoiser.named_buffers(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's."""
        return self.denoiser.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's."""
        return self.denoiser.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's."""
        return self.denoiser.load_state_dict(*args, **kwargs)


class _Steps:
    """One generation.

    Attributes:
        i: The present step; -1 before the first.
        skips: Whether the denoiser rests in it.
        nodes: What was computed, by guidance branch, [R, ...].
        branches: Guidance branches heard in the last computed step.
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

    def computed(self, at: float, value: Tensor, weight: Tensor | None = None) -> None:
        self.nodes = [*self.nodes, Node(at, value)][-self.rules.history :]
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
