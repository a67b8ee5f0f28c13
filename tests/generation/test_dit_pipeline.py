"""DiT from a class to pictures against diffusers' DiTPipeline, from a folder that diffusers saved."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from tests.cli.commands import Cli, in_folder
from tests.generation.image_pipelines import LABELS, dit
from tests.workshop import Workshop
from videoaccel import CalibrateSettings, GenerateSettings, calibrate
from videoaccel.calibration.calibrate import builtin_prompts
from videoaccel.cli.verify import gather
from videoaccel.generation.loading import find_model, load_scheduler, transformer_class
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.models.dit import DiT
from videoaccel.preview.preview import plan
from videoaccel.routers.training import train_router
from videoaccel.sampling.ddim import DDIMSchedule
from videoaccel.sampling.noise import SampleNoise
from videoaccel.sampling.solvers import DDPMSchedule
from videoaccel.session.registry import make_policy
from videoaccel.settings.routers import RouterSettings

SIZE = {"height": 16, "width": 16}
DDPM = {"scheduler": {"kind": "ddpm"}}


@pytest.fixture(scope="module")
def original() -> DiTPipeline:
    return dit()


@pytest.fixture(scope="module")
def folder(original: DiTPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dit")
    original.save_pretrained(path)  # which leaves the names out; the releases have them
    index = json.loads((path / "model_index.json").read_text()) | {"id2label": LABELS}
    (path / "model_index.json").write_text(json.dumps(index))
    assert DiTPipeline.from_pretrained(path).labels["Tinca tinca"] == 0
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> VideoPipeline:
    made = VideoPipeline.from_pretrained(folder, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_folder(tmp_path, monkeypatch, capfd)


def latents(pipe: VideoPipeline, prompt: Any = "tench", **options: Any) -> Tensor:
    return pipe(prompt, output_type="latent", **{"num_inference_steps": 4, **options}).frames


def theirs(original: DiTPipeline, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Tensor, np.ndarray]:
    """Latent and pictures of diffusers' pipeline."""
    seen, decode = [], original.vae.decode
    monkeypatch.setattr(original.vae, "decode", lambda z: (seen.append(z), decode(z))[1])
    pictures = original([0, 2], num_inference_steps=4, output_type="np", **options).images
    return seen[0][:, :, None] * original.vae.config.scaling_factor, pictures[:, None]


def noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))[:, :, None]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@torch.inference_mode()
def test_latents_and_pictures_are_the_originals(
    original: DiTPipeline, pipe: VideoPipeline, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    latent, pictures = theirs(original, monkeypatch, guidance_scale=guidance, generator=generator)
    options = {"guidance_scale": guidance, "latents": noise()}
    torch.testing.assert_close(latents(pipe, ["tench", "2"], **options), latent, atol=1e-4, rtol=1e-4)
    made = pipe(["tench", "2"], num_inference_steps=4, output_type="np", **options).frames
    assert made.shape == (2, 1, 16, 16, 3)
    assert np.abs(made - pictures).max() <= 1 / 255


class Drawn(DDPMScheduler):
    """Draws each step's noise as ours does; the pipeline gives a scheduler no generator, and a row for each branch."""

    def step(self, output: Tensor, t: Any, x: Tensor, **options: Any) -> Any:
        number = int((self.timesteps == t).nonzero())
        generators = [*self.source(number), *self.source(number)]  # type: ignore[attr-defined]
        return super().step(output, t, x, generator=generators, **options)


@torch.inference_mode()
def test_ddpm_is_the_originals_with_the_same_noise(
    original: DiTPipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Drawn.from_config(original.scheduler.config)
    scheduler.source = SampleNoise.from_seeds([5, 6]).of_steps()
    monkeypatch.setattr(original, "scheduler", scheduler)
    expected, _ = theirs(original, monkeypatch, generator=torch.Generator().manual_seed(0))
    schedule = load_scheduler(find_model(str(folder)), **DDPM["scheduler"])
    assert isinstance(schedule, DDPMSchedule) and schedule.config.clip_sample is False
    pipe = VideoPipeline.from_pretrained(folder, dtype=torch.float32, scheduler=schedule)
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 4.0, "seed": [5, 6]}
    made = latents(pipe, ["tench", "2"], latents=noise(), **options)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    alone = latents(pipe, ["2"], latents=noise()[1:], guidance_scale=4.0, seed=[6])
    torch.testing.assert_close(made[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["off", "fora", "fixed_linear", "delta_dit", "sada"])
def test_methods_run_on_it_unchanged(pipe: VideoPipeline, name: str) -> None:
    exact = latents(pipe, num_inference_steps=8)
    made = latents(pipe, num_inference_steps=8, policy=make_policy(name, **{"sada": {"threshold": 9.0}}.get(name, {})))
    assert torch.equal(made, exact) == (name == "off")


def test_saving_and_loading_is_exact(pipe: VideoPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = VideoPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded, "Tinca tinca"), latents(pipe, "0"))
    assert loaded.defaults == pipe.defaults and loaded.config.id2label == LABELS
    assert (pipe.defaults.height, pipe.defaults.num_frames, pipe.defaults.steps) == (16, 1, 50)
    (path,) = Workshop(tmp_path, tmp_path)("a.png", prompt="hen", steps=2)
    assert path.is_file()


def test_the_names_stand_for_the_released_parts() -> None:
    for side in (256, 512):
        source = find_model(f"dit-xl-2-{side}")
        assert transformer_class(source) is DiT and find_model(f"facebook/DiT-XL-2-{side}").spec == source.spec
        assert (source.spec.defaults.height, source.spec.defaults.num_frames) == (side, 1)
        assert isinstance(load_scheduler(source), DDIMSchedule)
        assert source.text.source == f"facebook/DiT-XL-2-{side}"
    with pytest.raises(ValueError, match="dit-xl-2-256 reads classes, not texts; elsewhere has no place in it"):
        find_model("dit-xl-2-256", text_encoder="elsewhere")
    with pytest.raises(
        ValueError, match="no schedule is called 'euler'; there are rectified_flow, ddim, ddpm, dpm_sol"
    ):
        load_scheduler(source, kind="euler")


def test_the_command_line_makes_a_picture_and_makes_it_again(folder: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, folder)
    options = {"prompt": "white shark", "steps": 2, "dtype": "float32"}
    (path,) = workshop("out.png", **options)
    record = workshop.record()
    assert record["settings"]["guidance"] == 4.0 and record["output"]["frames"] == 1
    assert (record["output"]["height"], record["output"]["width"]) == (16, 16), "what the folder's network is made for"
    assert workshop.again("out.json", "again.png") == path.read_bytes()
    (number,) = workshop("number.png", **options | {"prompt": "2"})
    assert number.read_bytes() == path.read_bytes()
    (drawn,) = workshop("drawn.png", **options, **DDPM)
    assert drawn.read_bytes() != path.read_bytes()
    assert workshop.again("drawn.json", "drawn-again.png") == drawn.read_bytes()
    for prompt, message in (("shark", "no class is called 'shark'; like it are white shark"), ("1001", "of 0 to 1000")):
        with pytest.raises(ValueError, match=message):
            workshop("b.png", **options | {"prompt": prompt})
    with pytest.raises(ValueError, match="DiT makes images, clips of 1 frame, not of 4"):
        workshop("c.mp4", frames=4, **options)


def test_jobs_are_rendered(cli: Cli, folder: Path) -> None:
    """Classes take the place of texts in the states that are kept; a wrong one is told by its job."""
    about = {"model": str(folder), "steps": 2, "threads": 1, "dtype": "float32"}
    jobs = [{"prompt": prompt, **about} for prompt in ("hen", "3", "white shark")]
    Path("jobs.jsonl").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
    done = cli("render", "jobs.jsonl", "-o", "out")
    assert done.code == 0, done.err
    found = [json.loads(path.read_text()) for path in Path("out").rglob("*.json") if "settings" in path.read_text()]
    hashes = {record["prompt"]: record["output"]["sha256"] for record in found if "output" in record}
    assert set(hashes) == {"hen", "3", "white shark"} and hashes["hen"] == hashes["3"] != hashes["white shark"]


def test_routers_are_trained_for_it(folder: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {"clips": 2, "states": 2, "hidden": 8, "iterations": 4, "steps": 4, "dtype": "float32"}
    out = tmp_path / "routers.safetensors"
    file = train_router(RouterSettings(model=str(folder), output=str(out), **small))
    assert file.blocks == ("space.0.block", "space.1.block")
    workshop = Workshop(tmp_path, folder)
    options = {"router": str(out), "flops_ratio": 1.2}
    workshop("elastic.png", prompt="hen", steps=4, dtype="float32", accel="elastic", accel_options=options)
    assert workshop.record("elastic.json")["acceleration"]["method"] == "elastic"


def test_without_names_prompts_are_classes_from_all_over(folder: Path, tmp_path: Path) -> None:
    nameless = shutil.copytree(folder, tmp_path / "nameless")
    index = json.loads((nameless / "model_index.json").read_text())
    (nameless / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "id2label"}))
    found = [int(number) for number in builtin_prompts(str(nameless))]
    assert len(set(found)) == len(found) == 100
    assert {number // 250 for number in found[:5]} == {0, 1, 2, 3}, "the first few, too"


def test_without_a_prompt_verify_makes_a_class_that_is_known(folder: Path) -> None:
    assert gather({"model": str(folder), "set_": []}).prompt == ("0",)
    assert gather({"model": str(folder), "prompt": ["hen"], "set_": []}).prompt == ("hen",)


@pytest.mark.parametrize("schedule", [{}, DDPM], ids=str)
def test_it_is_calibrated_and_planned(folder: Path, tmp_path: Path, schedule: dict[str, Any]) -> None:
    """With prompts in the box, which are the classes that have names."""
    assert sorted(builtin_prompts(str(folder))) == ["0", "1", "2", "3"]
    setting: dict[str, Any] = {"model": str(folder), "steps": 4, "dtype": "float32", **schedule}
    measured: dict[str, Any] = {"samples": 2, "replay_samples": 1, "methods": ("soda",)}
    prior = calibrate(CalibrateSettings(**setting, **measured, output=str(tmp_path / "a.safetensors")))
    assert prior.info["influence_correlation"] > 0.5
    options = {"accel": "soda", "prior": str(prior.path), "accel_options": {"flops_ratio": 2.0}}
    made = plan(GenerateSettings(**setting, **options), time=False)
    assert made.ratio(made.flops) >= 2.0
    workshop = Workshop(tmp_path, folder)
    workshop("soda.png", prompt="hen", **setting | {"model": str(folder)}, **options)
    assert workshop.record("soda.json")["acceleration"]["loops"][0]["network_calls"] == 2
