"""SADA on pipelines of diffusers: their denoiser is replaced by a module that passes calls on, or answers itself.

Nothing is patched. The module looks like the denoiser it holds, and :meth:`Attached.remove` puts that back. What step
it is, the schedule and the kind of prediction are read from ``pipe.scheduler``; calls are not counted, since some
pipelines call once a step, with both guidance branches in a batch, and some once a branch. A skipped step returns what
the denoiser would say for the extrapolated prediction, so that the scheduler goes on unaware. A batch skips a step if
all its samples may.

Shape legend: R rows of a call (guidance branches times samples, or samples), B samples, C latent channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from videoaccel.adapters.solvers import check_scheduler
from videoaccel.adapters.steps import Steps
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
        self._steps: Steps | None = None
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

    def _steps_for(self, x: Tensor) -> Steps:
        """The generation under way; another one where the scheduler was set anew."""
        timesteps, i = self.pipe.scheduler.timesteps, _step_of(self.pipe.scheduler)
        steps = self._steps
        if steps is None or steps.timesteps is not timesteps or i < steps.i or steps.shape != x.shape:
            self.computed = []
            steps = self._steps = Steps(self.policy, self.pipe.scheduler, x)
        return steps

    def _guides(self) -> bool:
        if self.guidance_scale is not None:
            return self.guidance_scale > 1
        return bool(getattr(self.pipe, "do_classifier_free_guidance", self.pipe.guidance_scale > 1))

    def _scale(self, denoiser: Any, steps: Steps) -> float:
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
        ValueError: The pipeline has no denoiser or scheduler that is known, its denoiser predicts variances, or it
            keeps no guidance scale and none is given.
    """
    if not denoisers(pipe) or getattr(pipe, "scheduler", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no denoiser and scheduler that sada knows")
    if policy.keep is not None:
        raise ValueError("keep needs this project's networks; outside them sada skips whole steps")
    if wide := [name for name in denoisers(pipe) if learns_variance(getattr(pipe, name))]:
        raise ValueError(f"{wide[0]} of {type(pipe).__name__} predicts variances, too, which sada does not extrapolate")
    check_scheduler(pipe.scheduler)
    if guidance_scale is None and not hasattr(type(pipe), "guidance_scale"):
        raise ValueError(_UNREADABLE.format(type(pipe).__name__))
    detach(pipe)
    return Attached(pipe, policy, guidance_scale=guidance_scale)


def learns_variance(denoiser: Any) -> bool:
    """Whether it has more channels going out than coming in, as DiT's learned variance."""
    config = getattr(denoiser, "config", {})
    coming, going = config.get("in_channels"), config.get("out_channels")
    return coming is not None and going is not None and going > coming


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
