"""PixArt against diffusers' PixArtTransformer2DModel: the same weights, configuration and numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

from tests.models.image_networks import (
    SIGMA,
    TOLD,
    original_pixart,
    original_pixart_pass,
    pixart_inputs,
    tiny_pixart,
)
from videoaccel.models.pixart import PixArt, PixArtSigma

EXACT = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [(1, 8, 8), (1, 6, 10), (1, 14, 2)]
CONFIGS: list[dict[str, Any]] = [
    {},
    TOLD,
    SIGMA,
    {"norm_elementwise_affine": True, "norm_eps": 1e-5, "attention_bias": False},
    {"activation_fn": "gelu", "out_channels": None, "num_layers": 3},
    {"sample_size": 128, "patch_size": 1},  # which are told their size unless they say otherwise
    {"num_attention_heads": 3, "attention_head_dim": 20, "cross_attention_dim": 60, "interpolation_scale": 3},
]
RELEASED = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 72, "caption_channels": 4096,
    "cross_attention_dim": 1152, "dropout": 0.0, "in_channels": 4, "norm_elementwise_affine": False, "norm_eps": 1e-06,
    "norm_type": "ada_norm_single", "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28,
    "out_channels": 8, "patch_size": 2, "sample_size": 64,
}  # fmt: skip
OLDER = {
    "attention_type": "default", "double_self_attention": False, "norm_num_groups": 32, "num_vector_embeds": None,
    "only_cross_attention": False, "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip
"""Fields of a release's configuration that say nothing here."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", CONFIGS, ids=str)
@torch.inference_mode()
def test_output_is_the_originals(fields: dict[str, Any], size: tuple[int, int, int]) -> None:
    inputs = pixart_inputs(size)
    out = tiny_pixart(**fields)(**inputs)
    assert out.dtype == torch.float32 and out.shape == (4, fields.get("out_channels", 8) or 4, *size)
    torch.testing.assert_close(out, original_pixart_pass(original_pixart(**fields), **inputs), **EXACT)


@pytest.mark.parametrize("lengths", [None, (5, 5), (1, 9), (9, 2), (3,)])
@torch.inference_mode()
def test_padding_of_the_text_is_not_read(lengths: tuple[int, ...] | None) -> None:
    inputs = pixart_inputs(lengths=lengths)
    expected = original_pixart_pass(original_pixart(), **inputs)
    torch.testing.assert_close(tiny_pixart()(**inputs), expected, **EXACT)
    whole = original_pixart_pass(original_pixart(), **inputs | {"mask": None})
    assert (lengths is None) == torch.equal(whole, expected)


@torch.inference_mode()
def test_a_mask_with_holes() -> None:
    inputs = pixart_inputs() | {"mask": torch.tensor([[0, 1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 1]])}
    expected = original_pixart_pass(original_pixart(), **inputs)
    torch.testing.assert_close(tiny_pixart()(**inputs), expected, **EXACT)


@torch.inference_mode()
def test_size_and_ratio_count_where_they_are_told() -> None:
    told, untold, inputs = tiny_pixart(**TOLD), tiny_pixart(**SIGMA), pixart_inputs((1, 8, 8))
    for change in ({"height": 128.0}, {"width": 128.0}, {"height": 128.0, "width": 128.0}):
        expected = original_pixart_pass(original_pixart(**TOLD), **inputs | change)
        torch.testing.assert_close(told(**inputs | change), expected, **EXACT)
        assert (told(**inputs | change) - told(**inputs)).abs().max() > 1e-3
        assert torch.equal(untold(**inputs | change), untold(**inputs))
    apart = inputs | {"height": torch.tensor([64.0, 128.0]), "width": torch.tensor([64.0, 32.0])}
    alone = inputs | {"height": 128.0, "width": 32.0}
    torch.testing.assert_close(told(**apart)[[1, 3]], told(**alone)[[1, 3]], **EXACT)
    with pytest.raises(ValueError, match="it needs height and width in pixels"):
        told(**inputs | {"height": None})


@torch.inference_mode()
def test_a_folder_saved_by_diffusers_loads(tmp_path: Path) -> None:
    original_pixart().save_pretrained(tmp_path)
    model, inputs = PixArt.from_pretrained(tmp_path), pixart_inputs()
    torch.testing.assert_close(model(**inputs), original_pixart_pass(original_pixart(), **inputs), **EXACT)
    model.save_pretrained(tmp_path / "again")
    back = PixArtTransformer2DModel.from_pretrained(tmp_path / "again")
    assert torch.equal(original_pixart_pass(back, **inputs), original_pixart_pass(original_pixart(), **inputs))


@pytest.mark.parametrize("change", [{}, {"sample_size": 128}, {"sample_size": 128, "use_additional_conditions": False}])
def test_released_keys_and_shapes(change: dict[str, Any]) -> None:
    """Those of diffusers' class, with the fields of a released file and the surplus ones of an older one."""
    with torch.device("meta"):
        model = PixArt.build({"_class_name": "Transformer2DModel", **RELEASED, **OLDER, **change})
        original = PixArtTransformer2DModel(**{**RELEASED, **change})
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in original.state_dict().items()}
    assert model.is_told_size == (len(change) == 1)


def test_a_sigma_reads_longer_prompts() -> None:
    assert (PixArt.tokens_read({}), PixArtSigma.tokens_read({})) == (120, 300)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 48}, "unknown field 'hidden_size'"),
        ({"norm_type": "layer_norm"}, "norm_type must be 'ada_norm_single', got 'layer_norm'"),
        ({"activation_fn": "geglu"}, "activation_fn must be one of gelu-approximate, gelu, got 'geglu'"),
        ({"cross_attention_dim": 32}, "cross_attention_dim must be the hidden size 48, got 32"),
        ({"caption_channels": None}, "cannot be built"),
        ({"num_layers": 3}, r"missing .*transformer_blocks\.2\.attn1\.to_k\.bias \[48\]"),
        ({"use_additional_conditions": True}, r"missing adaln_single\.emb\.aspect_ratio_embedder\.linear_1\.bias"),
        (
            {"use_additional_conditions": True, "attention_head_dim": 10, "cross_attention_dim": 40},
            "a third of the channels each, and 40 have none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    tiny_pixart().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        PixArt.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(4, 4, 1, 7, 8)}, "a latent of 7 x 8 is not made of whole patches of 2 x 2"),
        ({"x": torch.zeros(4, 4, 2, 8, 8)}, "PixArt makes images, clips of 1 frame, not of 2"),
        ({"timestep": torch.zeros(1)}, r"timestep must have shape \[4\], got \[1\]"),
        ({"x_mask": torch.ones(4, 1, dtype=torch.bool)}, "cannot keep given ones"),
        ({"y": None}, "needs y, or a context"),
        ({"mask": torch.ones(3, 9)}, "mask has 3 rows, which do not divide the batch of 4"),
        ({"mask": torch.zeros(1, 9)}, "row 0 of the text mask keeps no token"),
        ({"frames": 4}, "unknown argument 'frames' for PixArt"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_pixart()(**(pixart_inputs() | change))
