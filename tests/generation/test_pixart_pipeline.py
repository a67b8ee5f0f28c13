"""PixArt from prompt to pictures against diffusers' pipelines, from folders that diffusers saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generation.image_pipelines import pixart
from tests.sampling.test_solvers import PIXART
from tests.workshop import Workshop
from videoaccel import CalibrateSettings, GenerateSettings, calibrate
from videoaccel.comparison.compare import compare
from videoaccel.generation.loading import find_model, load_scheduler, transformer_class
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import plain
from videoaccel.models.pixart import PixArt, PixArtSigma
from videoaccel.models.seam import direct
from videoaccel.preview.preview import plan
from videoaccel.sampling.solvers import DPMSolverSchedule
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

PROMPTS = ["a red circle", "a much longer sentence of words"]
SIZE = {"height": 16, "width": 24}
KINDS = ["alpha", "sigma"]


@pytest.fixture(scope="module")
def originals() -> dict[str, Any]:
    return {kind: pixart(sigma=kind == "sigma") for kind in KINDS}


@pytest.fixture(scope="module")
def folders(originals: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, path in paths.items():
        originals[kind].save_pretrained(path)
    return paths


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, VideoPipeline]:
    made = {kind: VideoPipeline.from_pretrained(path, dtype=torch.float32) for kind, path in folders.items()}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


def latents(pipe: VideoPipeline, prompt: Any = PROMPTS[0], **options: Any) -> Tensor:
    return pipe(prompt, output_type="latent", **{"num_inference_steps": 4, **SIZE, **options}).frames


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [1.0, 4.5])
@torch.inference_mode()
def test_latents_and_pictures_are_the_originals(
    originals: dict[str, Any], pipes: dict[str, VideoPipeline], kind: str, guidance: float
) -> None:
    """A batch of prompts of different lengths; the empty prompt is read as long as it is."""
    z = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    shared = {"num_inference_steps": 4, "guidance_scale": guidance, **SIZE}
    options = {"latents": z, "use_resolution_binning": False, "clean_caption": False, **shared}
    theirs = {form: originals[kind](PROMPTS, output_type=form, **options).images for form in ("latent", "np")}
    made = latents(pipes[kind], PROMPTS, latents=z[:, :, None], **shared)
    scale = {"atol": 1e-6 * float(theirs["latent"].abs().max()), "rtol": 1e-4}  # drawn weights lead to hundreds
    torch.testing.assert_close(made, theirs["latent"][:, :, None], **scale)
    pictures = pipes[kind](PROMPTS, output_type="np", latents=z[:, :, None], **shared).frames
    assert pictures.shape == (2, 1, 16, 24, 3)
    assert np.abs(pictures[:, 0] - theirs["np"]).max() <= 1 / 255
    alone = latents(pipes[kind], PROMPTS[0], latents=z[:1, :, None], **shared)
    torch.testing.assert_close(made[:1], alone, **scale)


@pytest.mark.parametrize("name", ["off", "fora", "fixed_linear", "delta_dit", "taylorseer"])
def test_methods_run_on_it_unchanged(pipes: dict[str, VideoPipeline], name: str) -> None:
    exact = latents(pipes["alpha"], num_inference_steps=8)
    made = latents(pipes["alpha"], num_inference_steps=8, policy=make_policy(name))
    assert torch.equal(made, exact) == (name == "off")


@torch.inference_mode()
def test_a_run_goes_on_from_any_step(pipes: dict[str, VideoPipeline]) -> None:
    """The solver's past is that of the latent."""
    request = pipes["alpha"].request(PROMPTS[0], num_inference_steps=5, **SIZE)
    run, seen = pipes["alpha"].denoising(request), []

    def record(i: int, t: Tensor, x: Tensor) -> Tensor:
        seen.append(x)
        return x

    whole = plain(run, record)
    plain(run)
    for start in (3, 1):
        rest = run.denoise(Session(run.job(start=start)), run=direct, start=start, z=seen[start - 1])
        assert torch.equal(rest, whole)


def test_saving_and_loading_is_exact(pipes: dict[str, VideoPipeline], tmp_path: Path) -> None:
    pipes["sigma"].save_pretrained(tmp_path)
    loaded = VideoPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipes["sigma"]))
    assert isinstance(loaded.transformer, PixArtSigma) and isinstance(loaded.scheduler, DPMSolverSchedule)
    assert loaded.defaults == pipes["sigma"].defaults and loaded.defaults.height == 256


def test_the_names_stand_for_the_released_parts() -> None:
    kinds = {"alpha-512": PixArt, "alpha-1024": PixArt, "sigma-1024": PixArtSigma}
    for name, kind in kinds.items():
        source = find_model(f"pixart-{name}")
        assert source.spec.transformer is not None and transformer_class(source) is kind
        assert find_model(source.spec.transformer.source).spec == source.spec
        assert source.spec.defaults.height == int(name.partition("-")[2])
        named, released = load_scheduler(source), DPMSolverSchedule.from_config(PIXART)
        assert {k: v for k, v in named.config.items() if k[0] != "_" and released.config[k] != v} == {}


def test_the_command_line_makes_a_picture_and_makes_it_again(folders: dict[str, Path], tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, folders["alpha"])
    (path,) = workshop("out.png", size="16x24", steps=2, dtype="float32")
    assert workshop.record()["settings"]["guidance"] == 4.5 and workshop.record()["output"]["frames"] == 1
    assert workshop.again("out.json", "again.png") == path.read_bytes()
    with pytest.raises(ValueError, match="unknown DPMSolverSchedule fields"):
        workshop("b.png", size="16x24", scheduler={"shift": 1.0})
    with pytest.raises(ValueError, match="PixArt makes images, clips of 1 frame, not of 4"):
        workshop("c.mp4", size="16x24", frames=4, dtype="float32")


def test_it_is_calibrated_planned_and_compared(folders: dict[str, Path], tmp_path: Path) -> None:
    """The solver's steps are no Euler steps, and replays of a run begin in its middle."""
    setting: dict[str, Any] = {"model": str(folders["alpha"]), "steps": 6, "size": "16x24", "dtype": "float32"}
    measured: dict[str, Any] = {"samples": 1, "replay_samples": 1}
    prior = calibrate(CalibrateSettings(**setting, **measured, output=str(tmp_path / "a.safetensors")))
    assert prior.info["influence_correlation"] > 0.5
    options = {"accel": "soda", "prior": str(prior.path), "accel_options": {"flops_ratio": 2.0}}
    made = plan(GenerateSettings(**setting, **options), time=False)
    assert made.ratio(made.flops) >= 2.0
    workshop = Workshop(tmp_path, folders["alpha"])
    workshop("soda.png", **{**setting, **options})
    assert workshop.record("soda.json")["acceleration"]["loops"][0]["network_calls"] == 3
    pipe = VideoPipeline.from_pretrained(folders["alpha"], dtype=torch.float32)
    small = {"controls": False, "picture": False, "repeats": 2, "num_inference_steps": 6, **SIZE}
    methods = ["off", "fora", "soda"]
    values = {"fora": {"period": [2]}, "soda": {"flops_ratio": [2.0]}}
    found = compare(
        pipe, PROMPTS, out=tmp_path / "compared", methods=methods, values=values, prior=prior, name="a", **small
    )
    assert not found.errors and {result.method for result in found.results} == {"exact", *methods}
