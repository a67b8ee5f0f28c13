"""What the steps of the demo recipe share: geometry, network sizes, rendered batches, checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from videoaccel.eval.world import Scene, render, sample_scene

SIDE, FRAMES, FPS = 64, 17, 8

VAE_CONFIG = {
    "vae_2d": {
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 1,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "scale_applied": 0.18215,
    },
    "vae_temporal": {
        "filters": 32,
        "latent_embed_dim": 8,
        "embed_dim": 8,
        "num_res_blocks": 1,
        "channel_multipliers": (1, 1, 2, 2),
        "num_groups": 1,
        "temporal_downsample": (False, True, True),
    },
    "latents_mean": (0.0,) * 8,
    "latents_std": (1.0,) * 8,
}

TRANSFORMER_CONFIG = {
    "in_channels": 8,
    "hidden_size": 256,
    "depth": 6,
    "num_heads": 4,
    "caption_channels": 128,
    "model_max_length": 40,
    "input_sq_size": SIDE,
    "pred_sigma": False,
}


def seeded_scenes(seed: int, count: int) -> Iterator[tuple[list[Scene], np.ndarray]]:
    """Endless batches of training scenes with their clips, uint8 [count, FRAMES, SIDE, SIDE, 3]."""
    rng = np.random.default_rng(seed)
    while True:
        scenes = [sample_scene(rng) for _ in range(count)]
        yield scenes, np.stack([render(scene, rng=rng, frames=FRAMES, side=SIDE) for scene in scenes])


def seeded_clips(seed: int, count: int) -> Iterator[np.ndarray]:
    """The clips of :func:`seeded_scenes` alone."""
    for _, clips in seeded_scenes(seed, count):
        yield clips


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one, never half of one."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
