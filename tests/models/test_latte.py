"""Latte against diffusers' LatteTransformer3DModel: the same weights, configuration and numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel

from tests.models.latte_networks import latte_inputs, original_latte, original_pass, tiny_latte
from videoaccel.models.latte import Latte

EXACT = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [(4, 8, 8), (4, 6, 10), (4, 4, 2), (1, 8, 8), (1, 10, 6)]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"norm_elementwise_affine": True, "norm_eps": 1e-5, "attention_bias": False},
    {"activation_fn": "gelu", "out_channels": None, "num_layers": 3},
    {"cross_attention_dim": None},
    {"sample_size": 128, "patch_size": 1},
    {"num_attention_heads": 3, "attention_head_dim": 20, "cross_attention_dim": 60},
]
RELEASED = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 72, "caption_channels": 4096,
    "cross_attention_dim": 1152, "dropout": 0.0, "in_channels": 4, "norm_elementwise_affine": False, "norm_eps": 1e-06,
    "norm_type": "ada_norm_single", "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28,
    "out_channels": 8, "patch_size": 2, "sample_size": 64,
}  # fmt: skip
"""transformer/config.json of maxin-cn/Latte-1."""


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", CONFIGS, ids=str)
@torch.inference_mode()
def test_output_is_the_originals(fields: dict[str, Any], size: tuple[int, int, int], temporal: bool) -> None:
    inputs = latte_inputs(size, temporal=temporal)
    out = tiny_latte(**fields)(**inputs)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, original_pass(original_latte(**fields), **inputs), **EXACT)


@pytest.mark.parametrize("size", [(1, 8, 6), (4, 6, 10)])
@pytest.mark.parametrize("lengths", [None, (5, 5), (1, 9), (9, 2), (3,)])
@torch.inference_mode()
def test_padding_of_the_text_is_not_read(size: tuple[int, int, int], lengths: tuple[int, ...] | None) -> None:
    inputs = latte_inputs(size, lengths=lengths)
    expected = original_pass(original_latte(), **inputs)
    torch.testing.assert_close(tiny_latte()(**inputs), expected, **EXACT)
    whole = original_pass(original_latte(), **inputs | {"mask": None})
    assert (lengths is None) == torch.equal(whole, expected)


@torch.inference_mode()
def test_a_mask_with_holes() -> None:
    inputs = latte_inputs() | {"mask": torch.tensor([[0, 1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 1]])}
    torch.testing.assert_close(tiny_latte()(**inputs), original_pass(original_latte(), **inputs), **EXACT)


@torch.inference_mode()
def test_a_folder_saved_by_diffusers_loads(tmp_path: Path) -> None:
    original_latte().save_pretrained(tmp_path)
    model, inputs = Latte.from_pretrained(tmp_path), latte_inputs()
    torch.testing.assert_close(model(**inputs), original_pass(original_latte(), **inputs), **EXACT)
    model.save_pretrained(tmp_path / "again")
    back = LatteTransformer3DModel.from_pretrained(tmp_path / "again")
    assert torch.equal(original_pass(back, **inputs), original_pass(original_latte(), **inputs))


def test_released_keys_and_shapes() -> None:
    """Those of diffusers' class, with the fields of a released file and the surplus ones of an older one."""
    older = {"attention_type": "default", "double_self_attention": False, "norm_num_groups": 32}
    older |= {"num_vector_embeds": None, "only_cross_attention": False, "upcast_attention": False}
    with torch.device("meta"):
        model = Latte.build({"_class_name": "LatteTransformer3DModel", **RELEASED, **older})
        original = LatteTransformer3DModel(**RELEASED)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in original.state_dict().items()}
    assert model.config.video_length == 16


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 48}, "unknown field 'hidden_size'"),
        ({"norm_type": "layer_norm"}, "norm_type must be 'ada_norm_single', got 'layer_norm'"),
        ({"activation_fn": "geglu"}, "activation_fn must be one of gelu-approximate, gelu, got 'geglu'"),
        ({"num_attention_heads": 3, "attention_head_dim": 10}, "3 heads of 10 make 30 channels"),
        ({"cross_attention_dim": 32}, "cross_attention_dim must be the hidden size 48 or null, got 32"),
        ({"num_layers": 3}, r"missing .*transformer_blocks\.2\.attn1\.to_k\.bias \[48\]"),
        ({"out_channels": 4}, r"misshapen proj_out\.bias is \[32\], the model has \[16\]"),
        ({"in_channels": None}, "cannot be built"),
        ({"sample_size": [64, 64]}, "cannot be built"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    tiny_latte().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Latte.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(4, 4, 4, 7, 8)}, "a latent of 7 x 8 is not made of whole patches of 2 x 2"),
        ({"x": torch.zeros(4, 4, 2, 8, 8)}, r"images \(1 latent frame\) or videos of 4, not of 2"),
        ({"timestep": torch.zeros(1)}, r"timestep must have shape \[4\], got \[1\]"),
        ({"x_mask": torch.ones(4, 4, dtype=torch.bool)}, "cannot keep given ones"),
        ({"y": None}, "needs y, or a context"),
        ({"mask": torch.ones(3, 9)}, "mask has 3 rows, which do not divide the batch of 4"),
        ({"mask": torch.zeros(1, 9)}, "row 0 of the text mask keeps no token"),
        ({"frames": 4}, "unknown argument 'frames' for Latte"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_latte()(**latte_inputs() | change)


@torch.inference_mode()
def test_bfloat16_is_near() -> None:
    inputs = latte_inputs()
    expected, actual = tiny_latte()(**inputs), tiny_latte().to(torch.bfloat16)(**inputs)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() / expected.norm() < 0.025
