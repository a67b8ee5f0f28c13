"""DiT against diffusers' DiTTransformer2DModel: the same weights, configuration and numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

from tests.models.image_networks import CLASSES, dit_inputs, original_dit, original_dit_pass, tiny_dit
from videoaccel.models.dit import DiT

EXACT = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [(1, 8, 8), (1, 6, 6), (1, 10, 10), (1, 6, 10), (1, 14, 2)]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"norm_elementwise_affine": True, "norm_eps": 1e-6, "attention_bias": False},
    {"activation_fn": "gelu", "out_channels": None, "num_layers": 3},
    {"patch_size": 1, "sample_size": 5},
    {"num_attention_heads": 3, "attention_head_dim": 20},
]
RELEASED = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 72, "dropout": 0.0,
    "in_channels": 4, "norm_elementwise_affine": False, "norm_eps": 1e-05, "norm_type": "ada_norm_zero",
    "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28, "out_channels": 8, "patch_size": 2,
    "sample_size": 32,
}  # fmt: skip
OLDER = {
    "cross_attention_dim": None, "norm_num_groups": 32, "num_vector_embeds": None, "only_cross_attention": False,
    "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip
"""Fields of a release's configuration that say nothing here."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", CONFIGS, ids=str)
@torch.inference_mode()
def test_output_is_the_originals(fields: dict[str, Any], size: tuple[int, int, int]) -> None:
    inputs = dit_inputs(size)
    out = tiny_dit(**fields)(**inputs)
    assert out.dtype == torch.float32 and out.shape == (4, fields.get("out_channels", 8) or 4, *size)
    torch.testing.assert_close(out, original_dit_pass(original_dit(**fields), **inputs), **EXACT)


@torch.inference_mode()
def test_the_class_matters_and_none_is_the_last_row_of_the_table() -> None:
    model, original = tiny_dit(), original_dit()
    inputs = dit_inputs(batch=CLASSES + 1, guided=False)
    inputs["x"][:], inputs["timestep"][:] = inputs["x"][:1].clone(), 500
    inputs["y"] = torch.arange(CLASSES + 1.0).view(-1, 1, 1, 1)
    out = model(**inputs)
    torch.testing.assert_close(out, original_dit_pass(original, **inputs), **EXACT)
    assert model.null_text.tolist() == [[CLASSES]]
    assert all((out[a] - out[b]).abs().max() > 1e-3 for a in range(CLASSES) for b in range(a + 1, CLASSES + 1))
    dropped = original.train()  # in training a part of the classes is replaced by none: all, with this probability
    for block in dropped.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 1.0
    expected = original_dit_pass(dropped, **inputs)
    torch.testing.assert_close(out[-1:].expand_as(expected), expected, **EXACT)


@torch.inference_mode()
def test_a_folder_saved_by_diffusers_loads(tmp_path: Path) -> None:
    original_dit().save_pretrained(tmp_path)
    model, inputs = DiT.from_pretrained(tmp_path), dit_inputs((1, 8, 8))
    torch.testing.assert_close(model(**inputs), original_dit_pass(original_dit(), **inputs), **EXACT)
    model.save_pretrained(tmp_path / "again")
    back = DiTTransformer2DModel.from_pretrained(tmp_path / "again")
    assert torch.equal(original_dit_pass(back, **inputs), original_dit_pass(original_dit(), **inputs))


def test_released_keys_and_shapes() -> None:
    """Those of diffusers' class, with the fields of a released file and the surplus ones of an older one."""
    with torch.device("meta"):
        model = DiT.build({"_class_name": "Transformer2DModel", **RELEASED, **OLDER})
        original = DiTTransformer2DModel(**RELEASED)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in original.state_dict().items()}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 48}, "unknown field 'hidden_size'"),
        ({"norm_type": "ada_norm_single"}, "norm_type must be 'ada_norm_zero', got 'ada_norm_single'"),
        ({"activation_fn": "geglu"}, "activation_fn must be one of gelu-approximate, gelu, got 'geglu'"),
        ({"num_attention_heads": 3, "attention_head_dim": 10}, "3 heads of 10 make 30 channels"),
        ({"num_layers": 3}, r"missing .*transformer_blocks\.2\.attn1\.to_k\.bias \[48\]"),
        ({"num_embeds_ada_norm": 9}, r"misshapen .*embedding_table\.weight is \[8, 48\], the model has \[10, 48\]"),
        ({"num_embeds_ada_norm": None}, "cannot be built"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    tiny_dit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        DiT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(4, 4, 1, 7, 8)}, "a latent of 7 x 8 is not made of whole patches of 2 x 2"),
        ({"x": torch.zeros(4, 4, 2, 8, 8)}, "DiT makes images, clips of 1 frame, not of 2"),
        ({"timestep": torch.zeros(1)}, r"timestep must have shape \[4\], got \[1\]"),
        ({"x_mask": torch.ones(4, 1, dtype=torch.bool)}, "cannot keep given ones"),
        ({"y": None}, "needs y, or a context"),
        ({"y": torch.full((4, 1, 1, 1), 8.0)}, "of 0 to 7, got"),
        ({"y": torch.full((4, 1, 1, 1), 0.5)}, "of 0 to 7, got"),
        ({"y": torch.zeros(4, 1, 2, 1)}, "of 0 to 7, got"),
        ({"frames": 4}, "unknown argument 'frames' for DiT"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dit()(**(dit_inputs() | change))
