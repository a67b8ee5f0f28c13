"""DDPM, DPM-Solver++ and consistency models: diffusers' own steps, made restartable, as a generation asks for them.

diffusers' schedulers count their steps and keep what they need of earlier ones. A generation may start anew from any of
its latents (calibration does, many times), so here every step is told its number, and

* fresh noise (DDPM's, a consistency model's) belongs to the sample and the number of the step: it is the same whenever
  the step is taken. A learned variance is not sampled with, as in diffusers' DiT pipeline;
* what DPM-Solver++ keeps of earlier steps, predictions of the data, belongs to the latent that they led to, and lives
  as long as that latent does. A latent that no step has made (noise, or one that a callback has put in the place of
  another) has none, and the solver starts from it as it starts from noise: with a step of first order.

Shapes: B rows (clips), N steps, Z latent channels, t, h, w latent sizes.

Sources: DDPM (arXiv 2006.11239), DPM-Solver++ (arXiv 2211.01095) and LCM (arXiv 2310.04378), through diffusers'
``DDPMScheduler``, ``DPMSolverMultistepScheduler`` and ``LCMScheduler``.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (where diffusers looks how to load it)
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from videoaccel.models.protocols import StepNoise
from videoaccel.sampling.ddim import StrictFields

LEARNED = ("learned", "learned_range")


class DDPMSchedule(StrictFields, DDPMScheduler):
    """diffusers' DDPM; its fields and files are diffusers', an unknown one is an error.

    `timesteps` is ``[N, 1]``, falling, and `sigmas` ``[1, N+1]``, ``sqrt(1 - a)`` before each step and after the last.

    Raises:
        ValueError: The variance is to be the network's.
    """

    timesteps: Tensor
    sigmas: Tensor

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """See the class and :class:`StrictFields`."""
        variance = {**(config or {}), **kwargs}.get("variance_type")
        if variance in LEARNED:
            raise ValueError(f"DDPM takes no variance from the network (variance_type {variance}); give fixed_small")
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None, **size: Any) -> None:
        """Fill `timesteps` and `sigmas` and put them on ``device``. The schedule does not depend on the clip's size.

        Raises:
            ValueError: More steps than the network was trained for.
        """
        super().set_timesteps(num_inference_steps)
        self.numbers = self.timesteps
        self.timesteps = self.numbers[:, None].to(device)
        alphas = torch.cat((self.alphas_cumprod[self.numbers], self.one[None]))
        self.sigmas = (1 - alphas).sqrt()[None].to(device)

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What each of the present steps does: (step, latent [B, Z, t, h, w], prediction) -> the next latent.

        Args:
            noise: The generators of a step, one a row.

        Raises:
            ValueError: There are none.
        """
        if noise is None:
            raise ValueError("DDPM draws noise in every step: stepper needs generators")
        fixed = copy(self)
        fixed.timesteps = fixed.numbers

        def step(i: int, x: Tensor, output: Tensor) -> Tensor:
            moved: Tensor = fixed.step(output, int(fixed.numbers[i]), x, generator=noise(i), return_dict=False)[0]
            return moved

        return step


class DPMSolverSchedule(StrictFields, DPMSolverMultistepScheduler):
    """diffusers' multistep DPM-Solver; its fields and files are diffusers', an unknown one is an error.

    `timesteps` is ``[N, 1]``, falling, and `sigmas` ``[1, N+1]``, the noise's share before each step, after the last.
    """

    unused: ClassVar[frozenset[str]] = frozenset({"variance_type"})

    timesteps: Tensor
    sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None, **size: Any) -> None:
        """Fill `timesteps` and `sigmas` and put them on ``device``. The schedule does not depend on the clip's size.

        Raises:
            ValueError: There are not as many steps to be had.
        """
        if num_inference_steps > (most := int(self.config.num_train_timesteps)):
            raise ValueError(f"num_inference_steps must be at most {most}, got {num_inference_steps}")
        super().set_timesteps(num_inference_steps)
        self.numbers, self.ratios = self.timesteps, self.sigmas
        self.timesteps = self.numbers[:, None].to(device)
        self.sigmas = self._sigma_to_alpha_sigma_t(self.ratios)[1][None].to(device)

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What each of the present steps does: (step, latent [B, Z, t, h, w], prediction) -> the next latent.

        Args:
            noise: The generators of a step, one a row, for the solver's stochastic forms.

        Raises:
            ValueError: There are none, and the solver is stochastic.
        """
        if noise is None and self.config.algorithm_type.startswith("sde"):
            raise ValueError(f"{self.config.algorithm_type} draws noise in every step: stepper needs generators")
        fixed, made = copy(self), WeakTensorKeyDictionary()
        fixed.timesteps, fixed.sigmas = fixed.numbers, fixed.ratios
        order = int(self.config.solver_order)

        def step(i: int, x: Tensor, output: Tensor) -> Tensor:
            solver, before = copy(fixed), made.get(x, [])
            solver._step_index = i
            solver.lower_order_nums = len(before)
            solver.model_outputs = [None] * (order - len(before)) + before
            generators: Any = None if noise is None else noise(i)
            moved: Tensor = solver.step(output, fixed.numbers[i], x, generator=generators, return_dict=False)[0]
            made[moved] = [one for one in solver.model_outputs if one is not None][-order:]
            return moved

        return step


class LCMSchedule(StrictFields, LCMScheduler):
    """diffusers' schedule of consistency models; its fields and files are diffusers', an unknown one is an error.

    `timesteps` is ``[N, 1]``, falling, and `sigmas` ``[1, N+1]``, ``sqrt(1 - a)`` before each step and after the last.
    """

    unused: ClassVar[frozenset[str]] = frozenset({"variance_type"})

    timesteps: Tensor
    sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None, **size: Any) -> None:
        """Fill `timesteps` and `sigmas` and put them on ``device``. The schedule does not depend on the clip's size.

        Raises:
            ValueError: More steps than the network was distilled for.
        """
        super().set_timesteps(num_inference_steps)
        self.numbers = self.timesteps
        self.timesteps = self.numbers[:, None].to(device)
        noise = (1 - self.alphas_cumprod[self.numbers]).sqrt()
        self.sigmas = torch.cat((noise, torch.zeros(1)))[None].to(device)

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What each of the present steps does: (step, latent [B, Z, t, h, w], prediction) -> the next latent.

        Args:
            noise: The generators of a step, one a row.

        Raises:
            ValueError: There are none.
        """
        if noise is None:
            raise ValueError("a consistency model draws noise in every step: stepper needs generators")
        fixed = copy(self)
        fixed.timesteps = fixed.numbers

        def step(i: int, x: Tensor, output: Tensor) -> Tensor:
            solver = copy(fixed)
            solver._step_index = i
            generators: Any = noise(i)
            moved: Tensor = solver.step(output, fixed.numbers[i], x, generator=generators, return_dict=False)[0]
            return moved

        return step
