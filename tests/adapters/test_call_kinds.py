"""Calls that run alike share measured errors, others do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from videoaccel import Prior, accelerate
from videoaccel.adapters.call_kinds import numbers_of_call
from videoaccel.adapters.call_setting import Identities, differences, setting_of_call

SMALL, LARGE = Image.new("RGB", (48, 32)), Image.new("RGB", (96, 64))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"prompt": "a cat", "guidance_scale": 3.5, "num_inference_steps": 20}, {"guidance_scale": 3.5}),
        ({"attention_kwargs": {"scale": 0.5, "name": "x"}}, {"attention_kwargs.scale": 0.5}),
        ({"skip_guidance_layers": (7, 8)}, {"skip_guidance_layers": [7, 8]}),
        ({"image": SMALL}, {"size of image": "32x48"}),
        ({"image": [SMALL, SMALL]}, {"size of image": "32x48"}),
        ({"image": torch.zeros(2, 3, 32, 48)}, {"shape of image": "3x32x48"}),
        ({"image": LARGE, "height": None}, {}),
        ({"image": LARGE, "height": 32, "width": 48}, {"height": 32, "width": 48}),
        ({"video": [SMALL] * 9, "height": 32}, {"height": 32, "length of video": 9}),
        ({"video": [[SMALL] * 9], "height": 32}, {"height": 32, "length of video": 9}),
        ({"video": [SMALL] * 9, "height": 32, "num_frames": 5}, {"height": 32, "num_frames": 5}),
        ({"video": np.zeros((9, 32, 48, 3)), "height": 32}, {"height": 32, "shape of video": "9x32x48x3"}),
        ({"latents": torch.zeros(1, 4, 3, 8, 8), "height": 64}, {"height": 64, "shape of latents": "4x3x8x8"}),
        ({"latents": torch.zeros(1, 4, 3, 8, 8), "num_frames": 9}, {"num_frames": 9}),
        ({"latents": torch.zeros(1, 4, 8, 8)}, {}),
        ({"ip_adapter_image": LARGE, "image_embeds": torch.zeros(1, 4, 8, 8)}, {}),
        ({"true_cfg_scale": 4.0, "negative_prompt": None}, {"true_cfg_scale": 4.0, "a negative prompt": False}),
        ({"true_cfg_scale": 4.0, "negative_prompt": " "}, {"true_cfg_scale": 4.0, "a negative prompt": True}),
        ({"true_cfg_scale": 1.0, "negative_prompt": " "}, {"true_cfg_scale": 1.0}),
    ],
)
def test_what_counts_of_a_call(arguments: dict[str, Any], found: dict[str, Any]) -> None:
    assert numbers_of_call(arguments) == found


def test_guidance_that_a_negative_prompt_turns_on_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny = images.flux_true_guidance()
    negative = {name: tiny.options.pop(name) for name in list(tiny.options) if name.startswith("negative")}
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=1) as fast, pytest.warns(UserWarning, match="no prior"):
        tiny()
        tiny()
        assert len(fast.computed) == 6
        tiny(**negative)
        assert len(fast.computed) == 12 and "computed whole and measured" in str(fast.report().note)
        tiny(**negative)
        assert len(fast.computed) == 6 and fast.report().calls == 24


def test_a_guider_counts_whose_scale_no_call_is_told() -> None:
    pipe = videos.wan_modular().pipe
    first = setting_of_call(pipe, {})
    assert first["call"]["guider"] == "ClassifierFreeGuidance" and first["call"]["guider.guidance_scale"] == 5.0
    pipe.guider.guidance_scale = 2.0
    assert differences(first, setting_of_call(pipe, {})) == ["guider.guidance_scale 5.0, here 2.0"]


class Adapted(nn.Linear):
    """A layer with an adapter beside it, as peft makes them."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.scaling, self.active_adapters, self.disable_adapters = {"style": 1.0}, ["style"], False


def test_how_far_an_adapter_is_on_is_part_of_the_model(tmp_path: Path) -> None:
    tiny = images.flux()
    known = Identities()
    plain = known.of(tiny.pipe)
    tiny.pipe.transformer.extra = Adapted()
    first = known.of(tiny.pipe)
    tiny.pipe.transformer.extra.scaling["style"] = 0.1
    weaker = known.of(tiny.pipe)
    tiny.pipe.transformer.extra.disable_adapters = True
    assert len({plain, first, weaker, known.of(tiny.pipe)}) == 4
    setting = setting_of_call(tiny.pipe, {"true_cfg_scale": 2.0})
    Prior(setting, {"levels": torch.ones(1)}, {"levels": 1}, {}).save(tmp_path / "p.safetensors")
    assert not differences(Prior.load(tmp_path / "p.safetensors").setting, setting), "a file keeps it"
