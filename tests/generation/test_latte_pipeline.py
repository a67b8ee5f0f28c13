"""Latte from prompt to frames against diffusers' LattePipeline, from a folder that diffusers saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.latte.pipeline_latte import LattePipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from torch import Tensor

from tests.models.latte_networks import original_latte
from tests.models.test_frame_vae import FIELDS
from tests.sampling.test_ddim import RELEASED
from tests.tiny_pipeline import text_encoder, tokenizer
from tests.workshop import Workshop
from videoaccel import CalibrateSettings, GenerateSettings, calibrate
from videoaccel.generation.loading import find_model, network_class, transformer_class
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import plain
from videoaccel.generation.references import first_frame
from videoaccel.models.frame_vae import FrameAutoencoder
from videoaccel.models.latte import Latte
from videoaccel.models.seam import direct
from videoaccel.preview.preview import plan
from videoaccel.sampling.ddim import DDIMSchedule
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

PROMPT = "a red circle"
SIZE = {"height": 16, "width": 24}
SHAPE = (4, 4, 8, 12)


@pytest.fixture(scope="module")
def original() -> LattePipeline:
    words = tokenizer()
    torch.manual_seed(0)
    pipe = LattePipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=AutoencoderKL(**FIELDS).eval(),
        transformer=original_latte(),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(original: LattePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latte")
    original.save_pretrained(path)
    return path


def picture(folder: Path) -> Path:
    Image.new("RGB", (24, 16)).save(folder / "given.png")
    return folder / "given.png"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> VideoPipeline:
    made = VideoPipeline.from_pretrained(folder, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def latents(pipe: VideoPipeline, prompt: Any = PROMPT, **options: Any) -> Tensor:
    options = {"num_frames": 4, "num_inference_steps": 4, **SIZE, **options}
    return pipe(prompt, output_type="latent", **options).frames


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@torch.inference_mode()
def test_latents_and_frames_are_the_originals(
    original: LattePipeline, pipe: VideoPipeline, frames: int, guidance: float
) -> None:
    z = torch.randn(1, 4, frames, 8, 12, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 4, "guidance_scale": guidance, "latents": z, **SIZE}
    theirs = {
        kind: original(PROMPT, video_length=frames, output_type=kind, **options).frames for kind in ("latent", "np")
    }
    torch.testing.assert_close(latents(pipe, num_frames=frames, **options), theirs["latent"], atol=1e-4, rtol=1e-4)
    made = pipe(PROMPT, num_frames=frames, output_type="np", **options).frames
    assert made.shape == (1, frames, 16, 24, 3)
    assert np.abs(made - theirs["np"]).max() <= 1 / 255


def test_a_seed_gives_the_same_clip_in_any_batch(pipe: VideoPipeline) -> None:
    """Unlike the original's, where the padding of a batch is read as text."""
    prompts = [PROMPT, "a much longer sentence of words"]
    together = latents(pipe, prompts, seed=5)
    alone = torch.cat([latents(pipe, prompt, seed=5) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert together.shape == (2, *SHAPE)


@pytest.mark.parametrize("name", ["off", "fora", "fixed_linear", "fewer_steps"])
def test_methods_run_on_it_unchanged(pipe: VideoPipeline, name: str) -> None:
    exact = latents(pipe, num_inference_steps=6)
    made = latents(pipe, num_inference_steps=6, policy=make_policy(name))
    assert torch.equal(made, exact) == (name == "off")


@torch.inference_mode()
def test_a_run_goes_on_from_any_step(pipe: VideoPipeline) -> None:
    """DDIM's step is told the number of the step in the whole run."""
    request = pipe.request(PROMPT, num_frames=4, num_inference_steps=5, **SIZE)
    run, seen = pipe._maker(request, None).denoising(request.references), []

    def record(i: int, t: Tensor, x: Tensor) -> Tensor:
        seen.append(x)
        return x

    whole = plain(run, record)
    rest = run.denoise(Session(run.job(start=3)), run=direct, start=3, z=seen[2])
    assert torch.equal(rest, whole) and torch.equal(whole, seen[-1])
    costs = run.costs("flops")
    space, time = (costs.modules[axis, "mlp"][1.0] for axis in ("space", "time"))
    assert space == time > 0 and ("time", "cross") not in costs.modules


def test_saving_and_loading_is_exact(pipe: VideoPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = VideoPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipe))
    assert loaded.defaults == pipe.defaults and loaded.defaults.guidance == 7.5


def test_the_name_stands_for_the_released_parts() -> None:
    source = find_model("latte-1")
    assert transformer_class(source) is Latte and find_model("maxin-cn/Latte-1").spec == source.spec
    assert source.spec.vae is not None and network_class(str(source.spec.vae.network)) is FrameAutoencoder
    named, released = DDIMSchedule.from_config(source.spec.scheduler), DDIMSchedule.from_config(RELEASED)
    assert dict(named.config).items() >= {k: v for k, v in released.config.items() if k[0] != "_"}.items()
    other = find_model("latte-1", vae="elsewhere").spec.vae
    assert other is not None and (other.source, other.subfolder) == ("elsewhere", None)
    assert other.network == source.spec.vae.network
    for name in ("nothing.Latte", "latte.Nothing", "latte"):
        with pytest.raises(ValueError, match=f"there is no network '{name}'"):
            network_class(name)


def test_states_in_place_of_a_prompt(pipe: VideoPipeline, folder: Path) -> None:
    without = VideoPipeline.from_pretrained(folder, dtype=torch.float32, text_encoder=None, tokenizer=None)
    without.set_progress_bar_config(disable=True)
    states, empty = pipe.encode_prompt([PROMPT]), pipe.encode_prompt([""])
    made = latents(without, None, prompt_states=[states], empty_prompt_states=empty)
    assert torch.equal(made, latents(pipe))
    with pytest.raises(ValueError, match="without a text encoder"):
        latents(without, None, prompt_states=[states])


def test_the_command_line_makes_a_clip_and_makes_it_again(folder: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, folder)
    (path,) = workshop(frames=4, size="16x24", steps=2, dtype="float32")
    assert workshop.record()["settings"]["guidance"] == 7.5 and workshop.record()["output"]["frames"] == 4
    assert workshop.again("out.json", "again.mp4") == path.read_bytes()
    with pytest.raises(ValueError, match="unknown DDIMSchedule fields"):
        workshop("b.mp4", frames=4, size="16x24", scheduler={"shift": 1.0})
    with pytest.raises(ValueError, match="Latte makes every frame"):
        workshop("c.mp4", frames=4, size="16x24", dtype="float32", images=[str(picture(tmp_path))])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 5}, r"images \(1 latent frame\) or videos of 4, not of 5"),
        ({"height": 18}, "a latent of 9 x 12 is not made of whole patches of 2 x 2"),
        ({"loops": 2}, "Latte makes every frame of a clip"),
        ({"references": first_frame(torch.zeros(3, 1, 16, 24))}, "Latte makes every frame of a clip"),
    ],
)
def test_what_it_cannot_make_is_refused(pipe: VideoPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latents(pipe, **options)


def test_it_is_calibrated_and_planned(folder: Path, tmp_path: Path) -> None:
    """DDIM's steps are no Euler steps, the null text is a prompt's, and temporal blocks have no cross-attention."""
    setting: dict[str, Any] = {"model": str(folder), "steps": 4, "frames": 4, "size": "16x24", "dtype": "float32"}
    measured: dict[str, Any] = {"samples": 1, "replay_samples": 1, "methods": ("soda",)}
    prior = calibrate(CalibrateSettings(**setting, **measured, output=str(tmp_path / "a.safetensors")))
    assert prior.info["influence_correlation"] > 0.5
    options = {"accel": "soda", "prior": str(prior.path), "accel_options": {"flops_ratio": 2.0}}
    made = plan(GenerateSettings(**setting, **options), time=False)
    assert made.ratio(made.flops) >= 2.0
