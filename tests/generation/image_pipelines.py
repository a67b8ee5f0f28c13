"""Tiny pipelines of diffusers for images, with every parameter drawn."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from tests.models.image_networks import SIGMA, original_dit, original_pixart, tiny_dit, tiny_pixart
from tests.models.test_frame_vae import FIELDS
from tests.tiny_pipeline import text_encoder, tokenizer
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.models.frame_vae import FrameAutoencoder
from videoaccel.sampling.solvers import DDPMSchedule, DPMSolverSchedule

LABELS = {"0": "tench, Tinca tinca", "1": "goldfish", "2": "white shark", "3": "hen"}


def ours(kind: str) -> VideoPipeline:
    """Our own, with steps that draw noise (DiT's) or look back (PixArt's); importable by worker ranks."""
    torch.manual_seed(0)
    made = VideoPipeline(
        transformer=tiny_dit() if kind == "dit" else tiny_pixart(),
        vae=FrameAutoencoder(**FIELDS).eval(),
        scheduler=DDPMSchedule(clip_sample=False) if kind == "dit" else DPMSolverSchedule(),
        defaults={"height": 16, "width": 24, "num_frames": 1, "steps": 6, "guidance": 4.0, "align": None},
    )
    made.set_progress_bar_config(disable=True)
    return made


def dit() -> DiTPipeline:
    """A DiT of 1000 classes, as its pipeline counts on, of which four have names."""
    torch.manual_seed(0)
    made = DiTPipeline(
        transformer=original_dit(num_embeds_ada_norm=1000),
        vae=AutoencoderKL(**FIELDS).eval(),
        scheduler=DDIMScheduler(clip_sample=False),
        id2label=LABELS,  # type: ignore[arg-type]
    )
    made.set_progress_bar_config(disable=True)
    return made


def pixart(*, sigma: bool = False) -> Any:
    """An alpha that is told its size, or a Sigma."""
    words = tokenizer()
    torch.manual_seed(0)
    made = (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=AutoencoderKL(**FIELDS).eval(),
        transformer=original_pixart(**(SIGMA if sigma else {"sample_size": 128})),
        scheduler=DPMSolverMultistepScheduler(),
    )
    made.set_progress_bar_config(disable=True)
    return made
