"""The whole generation against the original's: from text states and noise to latents and frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import golden_values
from tests.golden_values import Case
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import References
from videoaccel.models.checkpoint import load_strictly
from videoaccel.models.stdit import STDiT3
from videoaccel.models.video_vae import Noise, VideoAutoencoder
from videoaccel.sampling.noise import SampleNoise
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler
from videoaccel.text.encoder import PromptStates

NAME = "pipeline_tiny"
pytestmark = pytest.mark.golden
WHOLE_PIPELINE = {"atol": 5e-4, "rtol": 1e-3}


def load(network: Any, name: str) -> Any:
    model = network.build(golden_values.load_json(name)["config"], source=name).eval()
    load_strictly(model, golden_values.select(golden_values.load_tensors(name), "weights"), source=name)
    return model


@lru_cache(maxsize=1)
def pipeline() -> VideoPipeline:
    settings = golden_values.load_json(NAME)
    pipe = VideoPipeline(
        transformer=load(STDiT3, "stdit3_tiny"),
        vae=load(VideoAutoencoder, "vae_tiny"),
        scheduler=RectifiedFlowScheduler(),
        defaults={"align": settings["align"]},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class RecordedNoise(SampleNoise):
    """The recorded draws, in order, and none more."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        super().__init__([torch.Generator()])
        self.rest: Iterator[Tensor] = iter(draws)

    def draw(self, shape: Sequence[int]) -> Tensor:
        return next(self.rest)


@dataclass(frozen=True)
class RecordedReferences(References):
    """References whose latents were recorded."""

    latents: tuple[Tensor, ...] = ()

    def encode(self, vae: VideoAutoencoder, noise: Noise, **options: Any) -> list[Tensor]:
        return list(self.latents)


@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_generation(golden: Case) -> None:
    name, case = golden.get()
    settings, tensors = golden_values.load_json(NAME), golden_values.load_tensors(NAME)
    t = golden_values.select(tensors, name)
    latents = tuple(tensors[key] for key in ("common.out.ref_image_latent", "common.out.ref_video_latent"))
    strategy = case["mask_strategy"] or ""
    pipe = pipeline()
    steps: list[Tensor] = []

    def record(pipe: VideoPipeline, i: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(values["latents"])
        return {}

    request = pipe.request(
        prompt_states=[PromptStates(tensors["common.in.y"], tensors["common.in.mask"])],
        latents=tensors["common.in.z"] if name != "t2v_no_mask" else t["in.start"],
        height=settings["size"][0],
        width=settings["size"][1],
        num_frames=settings["num_frames"],
        fps=settings["fps"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["cfg_scale"],
        callback_on_step_end=record,
    )
    draws = [t[key] for key in sorted(t) if key.startswith("in.noise.")]
    references = RecordedReferences(strategy=strategy, latents=latents)
    request = replace(request, noise=RecordedNoise(draws), references=(references,))
    out = pipe.latents(request)
    torch.testing.assert_close(pipe.scheduler.timesteps, t["out.timesteps"], rtol=1e-5, atol=0)
    if "out.z_before_step" in t:
        torch.testing.assert_close(torch.stack(steps[:-1]), t["out.z_before_step"][1:], **WHOLE_PIPELINE)
    torch.testing.assert_close(out, t["out.latents"], **WHOLE_PIPELINE)
    video = pipe.vae.decode(out, settings["num_frames"])
    assert list(video.shape) == case["video"]
    assert float(video.std()) == pytest.approx(case["video_std"], abs=1e-3)
    if "out.video" in t:
        torch.testing.assert_close(video, t["out.video"], **WHOLE_PIPELINE)
