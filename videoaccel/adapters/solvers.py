"""Variance-preserving schedules: what to extrapolate in place of the network's output, along which axis, and back.

The data prediction x0 over the log-SNR. The output that stands for it at the present latent is worked out from that, so
that the scheduler moves the latent and its own history as if it had been computed. A flow's velocity needs nothing of
this: it is extrapolated as it is, over the timestep.

Shape legend: ... any latent shape. x is the latent as the denoiser gets it.
"""

import math
from typing import Any

import numpy as np
from torch import Tensor

PRESERVING = frozenset({"DPMSolverMultistepScheduler", "EulerDiscreteScheduler"})
"""Schedulers whose form is known here."""

KINDS = ("epsilon", "v_prediction", "sample")
"""What networks predict."""


class Preserving:
    """``DPMSolverMultistepScheduler`` and ``EulerDiscreteScheduler`` with noise, v or data prediction.

    The second scales the latent by ``scale_model_input``: what the denoiser gets is the latent of the former.
    """

    def __init__(self, scheduler: Any) -> None:
        self.kind = scheduler.config.prediction_type
        self._sigmas: list[float] = scheduler.sigmas.tolist()
        betas = scheduler.betas.double().cpu().numpy()
        kept = scheduler.alphas_cumprod.double().cpu().numpy()
        self._betas, self._logs = betas, np.log(np.sqrt((1 - kept) / np.maximum(kept, 1e-12)))
        self._stretched = type(scheduler).__name__ == "EulerDiscreteScheduler"

    def axis(self, i: int) -> float:
        """Log of signal over noise."""
        return -math.log(self._sigmas[i])

    def latent(self, i: int, sample: Tensor) -> Tensor:
        """What the denoiser gets for the scheduler's latent; float32."""
        return sample.float() * (self.rates(i)[0] if self._stretched else 1.0)

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


def preserving(scheduler: Any) -> Preserving | None:
    """The form of a scheduler, set to a generation's timesteps; None of one whose outputs are to be taken as they are.

    That is every one but those of ``PRESERVING`` with a deterministic solver and one of the usual kinds of prediction.
    """
    config = getattr(scheduler, "config", {})
    known = type(scheduler).__name__ in PRESERVING and config.get("prediction_type") in KINDS
    stochastic = "sde" in (config.get("algorithm_type") or "")
    learned = str(config.get("variance_type") or "").startswith("learned")
    return Preserving(scheduler) if known and not stochastic and not learned else None


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler's networks predict a flow's velocity."""
    kind = getattr(scheduler, "config", {}).get("prediction_type")
    return type(scheduler).__name__.startswith("FlowMatch") or kind == "flow_prediction"
