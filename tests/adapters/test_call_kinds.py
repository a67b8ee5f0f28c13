"""Calls that run alike share measured errors, others do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MultiControlNetModel, T2IAdapter
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from PIL import Image
from torch import nn

from tests.adapters import image_pipes as images
from tests.adapters import picture_pipes as pictures
from tests.adapters import video_pipes as videos
from videoaccel import Prior, accelerate, calibrate
from videoaccel.adapters.call_kinds import numbers_of_call, numbers_of_pipe
from videoaccel.adapters.call_setting import Identities, differences, setting_of_call
from videoaccel.adapters.pipeline_priors import fitting
from videoaccel.planning.prior import KINDS, PIPELINE

SMALL, LARGE = Image.new("RGB", (48, 32)), Image.new("RGB", (96, 64))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"prompt": "a cat", "guidance_scale": 3.5, "num_inference_steps": 20}, {"guidance_scale": 3.5}),
        ({"attention_kwargs": {"scale": 0.5, "name": "x"}}, {"attention_kwargs.scale": 0.5}),
        ({"skip_guidance_layers": (7, 8)}, {"skip_guidance_layers": [7, 8]}),
        ({"controlnet_conditioning_scale": [0.5, 1.0]}, {"controlnet_conditioning_scale": [0.5, 1.0]}),
        ({"conditioning_scale": torch.tensor([0.5, 1.0])}, {"conditioning_scale": [0.5, 1.0]}),
        ({"control_mode": [1, 2]}, {"control_mode": [1, 2]}),
        ({"image": SMALL}, {"size of image": "32x48"}),
        ({"image": [SMALL, SMALL]}, {"size of image": "32x48"}),
        ({"image": torch.zeros(2, 3, 32, 48)}, {"shape of image": "3x32x48"}),
        ({"image": LARGE, "height": None}, {"size may be of": "image"}),
        ({"image": LARGE, "height": None, "width": 48}, {"width": 48, "size may be of": "image"}),
        ({"image": None, "latents": torch.zeros(1, 4, 8, 8), "height": None}, {}),
        ({"video": [SMALL] * 9, "height": 32, "num_frames": None}, {"height": 32, "size may be of": "video"}),
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


def kontext(side: int) -> dict[str, Any]:
    """Arguments of a call whose picture says how many tokens the network is given."""
    return {"image": Image.new("RGB", (side, side)), "height": None, "width": None}


def test_sizes_that_a_picture_decides_are_measured_each_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny = pictures.flux_kontext()
    told: list[str] = []
    with accelerate(tiny.pipe, "soda", speedup=2, calibrate=1) as fast, pytest.warns(UserWarning, match="no prior"):
        for side in (32, 32, 48, 48, 32, 48):
            tiny(**kontext(side))
            told.append("measured" if "and measured" in str(fast.report().note) else f"planned {len(fast.computed)}")
    assert told == ["measured", "planned 6", "measured", "planned 6", "planned 6", "planned 6"]
    found = {Prior.load(path).setting["latents"] for path in (tmp_path / "videoaccel" / "priors").iterdir()}
    assert found == {"512x4", "832x4"}, "tokens of the latents and of the picture"
    again = pictures.flux_kontext()
    with accelerate(again.pipe, "soda", speedup=2, calibrate=False) as fast:  # whichever of the two is looked at first
        for side in (48, 32):
            again(**kontext(side))
            assert len(fast.computed) == 6 and fast.prior is not None
            assert fast.prior.setting["latents"] == {32: "512x4", 48: "832x4"}[side]
        with pytest.raises(ValueError, match=r"nearest was measured for latents .*, here 1280x4"):
            again(**kontext(64))


def test_a_prior_that_was_given_is_refused_for_a_picture_of_another_size(tmp_path: Path) -> None:
    tiny = pictures.flux_kontext()
    call = {**tiny.options, "num_inference_steps": 12}
    prior = calibrate(tiny.pipe, calls=[{**call, **kontext(32)}], out=tmp_path / "p.safetensors", curve=0)
    with accelerate(tiny.pipe, "soda", speedup=2, prior=prior) as fast:
        tiny(**kontext(32))
        assert len(fast.computed) == 6
        with pytest.raises(ValueError, match="measured for latents 512x4, here 832x4; calibrate for this call"):
            tiny(**kontext(48))
    with accelerate(tiny.pipe, "soda", speedup=2, prior=prior, foreign_prior=True) as fast:
        tiny(**kontext(48))
        assert len(fast.computed) == 6
    both = [{**call, **kontext(32)}, {**call, **kontext(48)}]
    with pytest.raises(ValueError, match="calls are of different kinds"):
        calibrate(tiny.pipe, calls=both, out=tmp_path / "q.safetensors", curve=0)


def test_a_guider_counts_whose_scale_no_call_is_told() -> None:
    pipe = videos.wan_modular().pipe
    first = setting_of_call(pipe, {})
    assert first["call"]["guider"] == "ClassifierFreeGuidance" and first["call"]["guider.guidance_scale"] == 5.0
    pipe.guider.guidance_scale = 2.0
    assert differences(first, setting_of_call(pipe, {})) == ["guider.guidance_scale 5.0, here 2.0"]


def test_what_is_set_on_the_pipeline_counts() -> None:
    pipe = videos.wan_two().pipe
    first = setting_of_call(pipe, {})
    pipe.register_to_config(boundary_ratio=0.5)
    assert differences(first, setting_of_call(pipe, {})) == ["boundary_ratio 0.8, here 0.5"]
    pipe.pag_applied_layers, pipe._free_noise_context_length = "mid", 16
    assert {"pag_applied_layers": ["mid"], "free_noise_context_length": 16}.items() <= numbers_of_pipe(pipe).items()


def test_what_goes_into_a_denoiser_is_part_of_the_model() -> None:
    """ControlNets and T2I adapters by their weights, IP adapters by their scale, FreeU by its factors."""
    pipe = images.control_net().pipe
    known, other = Identities(), images.control_net().pipe.controlnet
    other.controlnet_mid_block.weight.data += 1.0
    seen = [known.of(pipe)]
    pipe.controlnet = other
    seen.append(known.of(pipe))
    pipe.controlnet = MultiControlNetModel([other, other])
    seen.append(known.of(pipe))
    pipe.adapter = T2IAdapter(channels=[4, 8], num_res_blocks=1, downscale_factor=8)
    seen.append(known.of(pipe))
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    seen.append(known.of(pipe))
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    seen.append(known.of(pipe))
    pipe.disable_freeu()
    assert known.of(pipe) == seen[3]
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(IPAdapterAttnProcessor2_0(8, cross_attention_dim=8))
    seen.append(known.of(pipe))
    pipe.set_ip_adapter_scale(0.3)
    seen.append(known.of(pipe))
    assert len(set(seen)) == len(seen) == 8


def test_how_weights_are_used_counts_beside_them(tmp_path: Path) -> None:
    """A prior of other rotations is no foreign one either; one from before configurations were kept still holds."""
    pipe, other = images.flux().pipe, images.flux().pipe
    other.transformer.register_to_config(axes_dims_rope=[4, 2, 2])
    was, now = setting_of_call(pipe, {"guidance_scale": 2.0}), setting_of_call(other, {"guidance_scale": 2.0})
    assert was["model"] == now["model"]
    told = differences(was, now)
    assert len(told) == 1 and told[0].startswith("the network's transformer.axes_dims_rope [")
    prior = Prior(was, {"levels": torch.ones(1)}, {"levels": 1}, {KINDS: PIPELINE})
    prior.save(path := tmp_path / "p.safetensors")
    prior = Prior.load(path)
    assert fitting(prior, was, foreign=False) is prior
    for foreign in (False, True):
        with pytest.raises(ValueError, match=r"the prior was measured for the network's .*; calibrate this pipeline"):
            fitting(prior, now, foreign=foreign)
    before = replace(prior, setting={name: value for name, value in was.items() if name != "network"})
    assert fitting(before, now, foreign=False) is before


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
