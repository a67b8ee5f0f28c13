"""The trained small models: folders of at most 10 MB in float16 that our pipeline and diffusers' both run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from examples.small_models.features import StillClassifier
from videoaccel import VideoPipeline
from videoaccel.eval.oracle import read
from videoaccel.generation.loading import type_on
from videoaccel.jobs.resolve import resolve
from videoaccel.settings.generate import GenerateSettings

SMALL = Path(__file__).parents[2] / "examples" / "small_models"


@pytest.mark.parametrize("name", ["pixart", "pixart_lcm", "dit", "features"])
def test_folders_are_small_and_in_float16(name: str) -> None:
    files = [path for path in (SMALL / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


@pytest.mark.parametrize(
    ("name", "prompt", "options"),
    [
        ("pixart", "a blue triangle on a dark green background", {"num_inference_steps": 12}),  # never shown
        ("pixart_lcm", "a red circle on a black background", {"num_inference_steps": 4, "guidance_scale": 1.0}),
        ("dit", "red circle on black", {"num_inference_steps": 12}),
    ],
)
def test_they_draw_what_they_are_asked_for(name: str, prompt: str, options: dict[str, Any]) -> None:
    pipe = VideoPipeline.from_pretrained(SMALL / name)
    assert pipe.transformer.dtype == torch.float32, "float16 is slow on most CPUs"
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(prompt, output_type="np", **options).frames
    assert frames.shape == (1, 1, 64, 64, 3)
    seen = read(np.round(frames[0] * 255).astype(np.uint8))
    said = f"{seen.actors[0].colour.word} {seen.actors[0].shape.word} on {seen.background.word}"
    assert said == prompt.removeprefix("a ").replace(" on a ", " on ").removesuffix(" background")


def test_float16_is_the_default_on_a_gpu_and_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = GenerateSettings(model=str(SMALL / "dit"), prompt="red circle on black", device="cpu")
    assert resolve(asked).settings.dtype == "float32"
    assert resolve(asked.model_copy(update={"dtype": "float16"})).settings.dtype == "float16"
    assert [type_on(kind, "float16") for kind in ("cuda", "cpu")] == ["float16", "float32"]
    assert type_on("cpu", "bfloat16") == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert VideoPipeline.from_pretrained(SMALL / "dit").transformer.dtype == torch.float16


def test_features_load() -> None:
    network = StillClassifier.from_pretrained(SMALL / "features", dtype=torch.float32)
    assert network.features(torch.zeros(2, 3, 64, 64)).shape == (2, 64)
