"""What the steps of the demo recipe share: geometry, network sizes, rendered batches, checkpoints."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from videoaccel.eval.world import BACKGROUNDS, Actor, Scene, is_held_out, render, sample_scene

SIDE, FRAMES, FPS = 64, 17, 8
PACKAGED = Path(__file__).parents[2] / "videoaccel" / "assets" / "demo"
Made = TypeVar("Made")

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


HARD_KINDS = ("confusable", "orbits", "pair", "pair")
"""What a hard scene is drawn to be, equally often: the last two are one kind."""

BACKGROUND_HUES = ("blue", "green", "white")
"""Colours whose word also stands in the name of a background."""


def hard_scene(rng: np.random.Generator) -> Scene:
    """Draw a training scene of a kind that the network gets wrong more often than others.

    Half of them have two actors, a quarter colour words that object and background could swap ("blue ... on a dark
    green background"), a quarter orbit. Held-out combinations never occur.
    """
    kind = HARD_KINDS[int(rng.integers(len(HARD_KINDS)))]
    while True:
        scene = sample_scene(rng, pair_share=1.0 if kind == "pair" else 0.15)
        if kind == "pair":
            return scene
        first, *others = scene.actors
        if kind == "orbits":
            first = Actor(first.colour, first.shape, "orbits")
            background = scene.background
        else:
            first = Actor(str(rng.choice(BACKGROUND_HUES)), first.shape, first.motion)
            background = str(rng.choice([name for name in BACKGROUNDS if name != "black"]))
        colours = [first.colour, *(actor.colour for actor in others)]
        if is_held_out(first) or background in colours or len(set(colours)) < len(colours):
            continue
        return Scene((first, *others), background)


def seeded_scenes(seed: int, count: int, *, hard: float = 0.0) -> Iterator[tuple[list[Scene], np.ndarray]]:
    """Endless batches of training scenes with their clips, uint8 [count, FRAMES, SIDE, SIDE, 3].

    A share ``hard`` of the scenes comes from :func:`hard_scene`, the rest uniformly.
    """
    rng = np.random.default_rng(seed)
    while True:
        scenes = [hard_scene(rng) if hard and rng.random() < hard else sample_scene(rng) for _ in range(count)]
        yield scenes, np.stack([render(scene, rng=rng, frames=FRAMES, side=SIDE) for scene in scenes])


def seeded_clips(seed: int, count: int, *, hard: float = 0.0) -> Iterator[np.ndarray]:
    """The clips of :func:`seeded_scenes` alone."""
    for _, clips in seeded_scenes(seed, count, hard=hard):
        yield clips


def in_order(make: Callable[..., Made], tasks: list[tuple[Any, ...]], *, workers: int) -> Iterator[Made]:
    """Results of ``make`` for each task's arguments, in order, made ahead by ``workers`` programs if more than one."""
    if workers == 1:
        yield from starmap(make, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[Future[Made]] = deque()
        for task in tasks:
            ahead.append(pool.submit(make, *task))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one, never half of one."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
