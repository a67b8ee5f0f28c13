"""The model in the box: small enough, complete, and as its card says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videoaccel.common.package import packaged
from videoaccel.eval.oracle import read
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.planning.prior import setting_of
from videoaccel.planning.shelf import find_prior

FOLDER = packaged("assets", "demo")
PROMPT = "a red circle moves left on a dark blue background"


@pytest.fixture(scope="module")
def demo() -> VideoPipeline:
    pipe = VideoPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_a_small_folder_of_safetensors() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert "_name_or_path" not in index
    assert {"transformer", "vae", "scheduler", "tokenizer", "text_encoder"} <= index.keys()


def test_geometry(demo: VideoPipeline) -> None:
    """Enough places for token pruning to show, enough pairs for caching to show."""
    d = demo.defaults
    size = demo.vae.latent_size((d.num_frames, d.height, d.width))
    frames, rows, columns = demo.transformer.token_grid(size)
    assert d.num_frames >= 17 and frames >= 5 and rows * columns >= 64
    assert demo.transformer.config.depth >= 6 and d.steps == 30
    assert demo.scheduler.config.base_size == d.height


def test_latents_are_normalised(demo: VideoPipeline) -> None:
    from examples.demo_model.train_vae import batches

    with torch.inference_mode():
        z = demo.vae.encode(next(batches(10**5, clips=True, count=8)))
    assert z.mean((0, 2, 3, 4)).abs().max() < 0.35
    assert (z.std((0, 2, 3, 4)) - 1).abs().max() < 0.35


def test_stills_come_back_from_the_vae(demo: VideoPipeline) -> None:
    """Given pictures, first frames of loops and one-frame clips are single frames, unlike what a chunk holds."""
    from examples.demo_model.train_vae import batches, single_frames

    rng = np.random.default_rng(3)
    stills = single_frames(next(batches(10**5, clips=True, count=6)), rng)
    with torch.inference_mode():
        back = demo.vae.decode(demo.vae.encode(stills), 1)
    assert 127.5 * (back.clamp(-1, 1) - stills).abs().mean() < 6, "grey levels"


def test_default_clip(demo: VideoPipeline) -> None:
    frames = demo(PROMPT, seed=0, num_inference_steps=2, output_type="pt").frames
    d = demo.defaults
    assert frames.shape == (1, d.num_frames, 3, d.height, d.width)
    assert torch.equal(frames, demo(PROMPT, seed=0, num_inference_steps=2, output_type="pt").frames)


def test_two_shapes_are_told_apart(demo: VideoPipeline) -> None:
    """Weights before, whose T5 was a bag of words, got nearly every such sentence wrong."""
    prompt = "a red circle moves left and a cyan square moves right on a black background"
    frames = demo(prompt, output_type="np", num_inference_steps=10).frames
    seen = read(np.round(frames[0] * 255).astype(np.uint8), actors=2)
    said = [f"{one.colour.word} {one.shape.word} {one.motion.word}" for one in seen.actors]
    assert said == ["red circle moves left", "cyan square moves right"] and seen.background.word == "black"


def test_the_prior_in_the_box_belongs_to_these_weights(
    demo: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--speedup 2` works at once; a prior is found by the weights, so new ones need a new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    d = demo.defaults
    size: Any = {"size": (d.height, d.width), "frames": d.num_frames, "guidance": d.guidance}
    assert find_prior(setting_of(demo.transformer, demo.scheduler, steps=d.steps, **size)) is not None
    # Tables are by step and module: a clip of two latents, which takes a fraction of the time, they serve as well.
    short = {"seed": 1, "num_frames": 5, "output_type": "latent"}
    exact = demo(PROMPT, **short).frames
    demo.accelerate("soda", speedup=2.0, foreign_prior=True)
    try:
        fast = demo(PROMPT, **short).frames
    finally:
        demo.accelerate(None)
    error = (fast - exact).square().mean() / exact.square().mean()
    assert 0 < error < 1e-4
