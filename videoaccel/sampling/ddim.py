"""DDIM: the schedule of a variance-preserving diffusion and its deterministic step.

A latent at timestep t is ``sqrt(a_t) * data + sqrt(1 - a_t) * noise``, a_t falling from nearly 1 at t = 0 to nearly 0
at t = 999; the network predicts the noise (or, by ``prediction_type``, the data or the "velocity" of arXiv 2202.00512).

Shapes: B rows (clips), N steps, Z latent channels, t, h, w latent sizes.

Source: DDIM (arXiv 2010.02502), formula 12 with sigma = 0, through diffusers' ``DDIMScheduler``.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (where diffusers looks how to load it)
from torch import Tensor

from videoaccel.models.protocols import StepNoise


class StrictFields:
    """Mixin over a scheduler of diffusers: unknown fields are errors."""

    unused: ClassVar[frozenset[str]] = frozenset()
    """Fields of released files that concern other schedulers of the same network, and are passed over."""

    @property
    def keeps_variance(self) -> bool:
        """See :class:`videoaccel.models.protocols.Schedule`."""
        return not self.config.get("use_flow_sigmas", False)  # type: ignore[attr-defined]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Diffusers' method, except that an unknown field is an error where diffusers would only log it.

        Raises:
            ValueError: There is no such field.
        """
        known = cls._get_init_keys(cls) - {"self"}  # type: ignore[attr-defined]
        fields = {name: value for name, value in (config or {}).items() if name not in cls.unused}
        given = [*fields, *(() if return_unused_kwargs else kwargs)]
        if unknown := [name for name in given if name not in known and not name.startswith("_")]:
            raise ValueError(f"unknown {cls.__name__} fields {unknown}; there are {sorted(known)}")
        return super().from_config(fields, return_unused_kwargs=return_unused_kwargs, **kwargs)  # type: ignore[misc]


class DDIMSchedule(StrictFields, DDIMScheduler):
    """diffusers' DDIM as a generation asks for it; its fields and files are diffusers', an unknown one is an error.

    `timesteps` is ``[N, 1]``, falling, and `sigmas` ``[1, N+1]``, ``sqrt(1 - a)`` before each step and after the last.
    """

    unused: ClassVar[frozenset[str]] = frozenset({"variance_type"})  # what a second half of channels was trained for

    timesteps: Tensor
    sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None, **size: Any) -> None:
        """Fill `timesteps` and `sigmas` and put them on ``device``. The schedule does not depend on the clip's size.

        Raises:
            ValueError: More steps than the network was trained for.
        """
        super().set_timesteps(num_inference_steps, device)
        self.numbers = [int(t) for t in self.timesteps.tolist()]
        self.timesteps = self.timesteps[:, None]
        alphas = torch.cat((self.alphas_cumprod[self.numbers], self.final_alpha_cumprod[None]))
        self.sigmas = (1 - alphas).sqrt()[None].to(self.timesteps.device)

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What each of the present steps does: (step, latent [B, Z, t, h, w], prediction) -> the next latent.

        It draws nothing: ``noise`` is left alone.
        """
        fixed = copy(self)  # set_timesteps puts new values in the place of old ones and changes none of these
        return lambda i, x, output: fixed.step(output, fixed.numbers[i], x, return_dict=False)[0]
