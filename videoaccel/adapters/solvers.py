"""How diffusers' schedulers read what a denoiser predicts: what to extrapolate, along which axis, and back again.

Two kinds. A flow's velocity is extrapolated over sigma. In a variance-preserving diffusion it is the data prediction
x0, over the log-SNR; the denoiser's output that stands for it at the present latent is worked out from that, so that
the scheduler, which is not told of anything, moves the latent and its own history as if it had been computed.

Shape legend: ... any latent shape. x is the latent as the denoiser gets it.
"""

import math
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Solver(Protocol):
    """One generation's schedule.

    Attributes:
        steps: N.
    """

    steps: int

    def axis(self, i: int) -> float:
        """Where step ``i`` stands on the axis of extrapolation."""
        ...

    def known(self, i: int, x: Tensor, output: Tensor) -> Tensor:
        """What is extrapolated, from the denoiser's output at x; float32."""
        ...

    def output(self, i: int, x: Tensor, known: Tensor) -> Tensor:
        """The inverse; float32."""
        ...


class Flow:
    """``FlowMatchEulerDiscreteScheduler``: noise minus data, over sigma."""

    @staticmethod
    def check(scheduler: Any) -> None:
        """See :func:`check_scheduler`."""
        if scheduler.config.get("stochastic_sampling"):
            raise ValueError(f"sada needs a deterministic solver; {type(scheduler).__name__} samples stochastically")

    def __init__(self, scheduler: Any) -> None:
        self._sigmas: list[float] = scheduler.sigmas.tolist()
        self.steps = len(scheduler.timesteps)

    def axis(self, i: int) -> float:
        """Sigma."""
        return self._sigmas[i]

    def known(self, i: int, x: Tensor, output: Tensor) -> Tensor:
        """The velocity itself."""
        return output.float()

    def output(self, i: int, x: Tensor, known: Tensor) -> Tensor:
        """The velocity itself."""
        return known


class Preserving:
    """``DPMSolverMultistepScheduler`` and ``EulerDiscreteScheduler`` with noise, v or data prediction.

    The second scales the latent by ``scale_model_input``: what the denoiser gets is the latent of the former.
    """

    @staticmethod
    def check(scheduler: Any) -> None:
        """See :func:`check_scheduler`."""
        config = scheduler.config
        name, kind = type(scheduler).__name__, config.prediction_type
        if kind not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(
                f"sada knows no prediction type {kind!r} of {name}; it knows epsilon, v_prediction, sample"
            )
        if "sde" in config.get("algorithm_type", ""):
            raise ValueError(f"sada needs a deterministic solver; {name} has {config.algorithm_type}")
        if str(config.get("variance_type") or "").startswith("learned"):
            raise ValueError(f"sada takes no learned variance; {name} has variance_type {config.variance_type}")

    def __init__(self, scheduler: Any) -> None:
        self.kind, self.steps = scheduler.config.prediction_type, len(scheduler.timesteps)
        self._sigmas: list[float] = scheduler.sigmas.tolist()
        betas = scheduler.betas.double().cpu().numpy()
        kept = scheduler.alphas_cumprod.double().cpu().numpy()
        self._betas, self._logs = betas, np.log(np.sqrt((1 - kept) / np.maximum(kept, 1e-12)))

    def axis(self, i: int) -> float:
        """Log of signal over noise."""
        return -math.log(self._sigmas[i])

    def rates(self, i: int) -> tuple[float, float]:
        """Shares of signal and of noise in the latent, alpha and sigma, whose squares sum up to 1."""
        alpha = 1 / math.sqrt(self._sigmas[i] ** 2 + 1)
        return alpha, alpha * self._sigmas[i]

    def known(self, i: int, x: Tensor, output: Tensor) -> Tensor:
        """The data prediction."""
        alpha, sigma = self.rates(i)
        x, output = x.float(), output.float()
        if self.kind == "sample":
            return output
        return alpha * x - sigma * output if self.kind == "v_prediction" else (x - sigma * output) / alpha

    def output(self, i: int, x: Tensor, known: Tensor) -> Tensor:
        """What the denoiser would have said."""
        alpha, sigma = self.rates(i)
        if self.kind == "sample":
            return known
        return (
            (alpha * x.float() - known) / sigma if self.kind == "v_prediction" else (x.float() - alpha * known) / sigma
        )

    def time(self, i: int) -> float:
        """Training timestep with this noise, in between where there is none."""
        return float(np.interp(math.log(max(self._sigmas[i], 1e-12)), self._logs, np.arange(len(self._logs))))

    def gradient(self, i: int, x: Tensor, known: Tensor) -> Tensor:
        """Of the latent by training timestep: dx/dt = beta/2 (noise/sigma - x)."""
        alpha, sigma = self.rates(i)
        beta = float(np.interp(self.time(i), np.arange(len(self._betas)), self._betas))
        noise = (x.float() - alpha * known) / sigma
        return beta / 2 * (noise / sigma - x.float())


SOLVERS: dict[str, type[Flow] | type[Preserving]] = {
    "FlowMatchEulerDiscreteScheduler": Flow,
    "DPMSolverMultistepScheduler": Preserving,
    "EulerDiscreteScheduler": Preserving,
}


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that is not known, or is set to what cannot be skipped.

    Raises:
        ValueError: It is.
    """
    name = type(scheduler).__name__
    if name not in SOLVERS:
        raise ValueError(f"sada knows no {name}; it knows {', '.join(SOLVERS)}")
    SOLVERS[name].check(scheduler)


def solver_of(scheduler: Any) -> Flow | Preserving:
    """What a scheduler, set to a generation's steps, does with a denoiser's output.

    Raises:
        ValueError: See :func:`check_scheduler`.
    """
    check_scheduler(scheduler)
    return SOLVERS[type(scheduler).__name__](scheduler)
