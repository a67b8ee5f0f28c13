"""The demo model as a pipeline of somebody else's: its own loop over the same network, noise and steps."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from videoaccel import VideoPipeline
from videoaccel.models.seam import direct
from videoaccel.sampling.guidance import guide

PROMPT = "a red circle moves left on a dark blue background"
SMALL = {"height": 32, "width": 32, "num_frames": 5}


class Flow(SchedulerMixin, ConfigMixin):
    """Rectified flow with one timestep for all samples, as diffusers' schedulers have it."""

    order = 1

    @register_to_config
    def __init__(self, kind: str = "flow") -> None:
        self.timesteps = self.sigmas = torch.empty(0)
        self._update: Any = None

    def set_timesteps(self, num_inference_steps: int, *, run: Any) -> None:
        self.timesteps, self.sigmas = run.timesteps[:, 0], run.sigmas[0]
        self._update = run.update

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> tuple[Tensor]:
        i = int((self.timesteps == timestep).nonzero()[0])
        return (self._update(i, sample, model_output),)


class OutsidePipeline(DiffusionPipeline):
    """Knows the network by its call alone."""

    def __init__(self, transformer: Any, scheduler: Flow, own: VideoPipeline) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        object.__setattr__(self, "own", own)

    @torch.inference_mode()
    def __call__(
        self, prompt: str = PROMPT, num_inference_steps: int = 12, guidance_scale: float = 4.0, seed: int = 0
    ) -> Tensor:
        run = self.own.denoising(
            self.own.request(
                prompt, seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, **SMALL
            )
        )
        self.scheduler.set_timesteps(num_inference_steps, run=run)
        x = run.z
        for t in self.scheduler.timesteps:
            rows = t.expand(len(x) * len(run.branches))
            out = self.transformer(
                torch.cat([x] * len(run.branches)), rows, x_mask=None, context=run.context, run=direct
            )
            cond, uncond = out[:, : x.shape[1]].chunk(2)
            (x,) = self.scheduler.step(guide(cond, uncond, scale=guidance_scale), t, x)
        return x


def both_doors() -> tuple[VideoPipeline, OutsidePipeline]:
    """The demo model, and its network in a pipeline that is not ours."""
    own = VideoPipeline.from_pretrained("demo")
    own.set_progress_bar_config(disable=True)
    return own, OutsidePipeline(own.transformer, Flow(), own)


def native(own: VideoPipeline, **options: Any) -> Tensor:
    """Latents of our own pipeline."""
    found: Tensor = own(PROMPT, output_type="latent", **SMALL, **options).frames
    return found
