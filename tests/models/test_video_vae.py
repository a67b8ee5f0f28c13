"""The video VAE against the original's outputs, and its promises on chunks."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import golden_values
from tests.golden_values import Case
from videoaccel.models.checkpoint import load_strictly
from videoaccel.models.video_vae import VideoAutoencoder

NAME = "vae_tiny"
FLOAT32 = {"atol": 1e-4, "rtol": 1e-4}


@lru_cache(maxsize=4)
def network(micro_frame_size: int | None) -> VideoAutoencoder:
    config = golden_values.load_json(NAME)["config"] | {"micro_frame_size": micro_frame_size}
    model = VideoAutoencoder.build(config, source=NAME).eval()
    load_strictly(model, golden_values.select(golden_values.load_tensors(NAME), "weights"), source=NAME)
    return model


def case_of(golden: Case) -> tuple[VideoAutoencoder, dict[str, Any], dict[str, Tensor]]:
    name, case = golden.get()
    return network(case["micro_frame_size"]), case, golden_values.select(golden_values.load_tensors(NAME), name)


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_encode(golden: Case) -> None:
    vae, case, t = case_of(golden)
    assert list(vae.latent_size((case["frames"], *case["size"]))) == case["latent_size"]
    mean, logvar = vae.encode_moments(t["in.x"])
    torch.testing.assert_close(mean, t["out.spatial_latent_mode"], **FLOAT32)
    torch.testing.assert_close(logvar, t["out.spatial_logvar"], **FLOAT32)
    chunks = mean.split(case["micro_frame_size"] or mean.shape[2], dim=2)
    moments = torch.cat([vae.temporal_vae.encode(chunk) for chunk in chunks], dim=2)
    torch.testing.assert_close(moments, torch.cat((t["out.temporal_mean"], t["out.temporal_logvar"]), 1), **FLOAT32)
    torch.testing.assert_close(vae.encode(t["in.x"]), t["out.z_mode"], **FLOAT32)


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_encode_with_recorded_noise(golden: Case) -> None:
    vae, case, t = case_of(golden)
    if not case["with_noise"]:
        pytest.skip("no noise was recorded for this case")
    draws = iter([t[key] for key in sorted(t) if key.startswith("in.noise.")])
    shapes = []

    def noise(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        shapes.append(list(shape))
        return next(draws)

    torch.testing.assert_close(vae.encode(t["in.x"], noise=noise), t["out.z_sample"], **FLOAT32)
    assert shapes == case["noise_order"]


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_decode(golden: Case) -> None:
    vae, case, t = case_of(golden)
    chunks = vae.chunks(t["in.z"], case["frames"])
    spatial = torch.cat([vae.decode_spatial_latent(z, frames) for z, frames in chunks], dim=2)
    torch.testing.assert_close(spatial, t["out.decoded_spatial_latent"], **FLOAT32)
    torch.testing.assert_close(vae.decode(t["in.z"], case["frames"]), t["out.decoded"], **FLOAT32)


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases(NAME, "latent_sizes"))
def test_latent_sizes(golden: Case) -> None:
    """These are of the released VAE, whatever the tiny one's levels."""
    case = golden.get()
    with torch.device("meta"):
        vae = VideoAutoencoder.build({"vae_2d": {"type": "released"}, "vae_temporal": {"type": "released"}})
    assert list(vae.latent_size(case["input"])) == case["latent"]


def tiny_vae(**fields: Any) -> VideoAutoencoder:
    torch.manual_seed(0)
    spatial = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": 4}
    temporal = {"filters": 4, "num_groups": 2, "num_res_blocks": 1, "channel_multipliers": (1, 1, 2, 2)}
    return VideoAutoencoder(vae_2d=spatial, vae_temporal=temporal, **fields).eval()


@torch.inference_mode()
def test_chunks_come_one_by_one_and_do_not_depend_on_the_rest() -> None:
    vae = tiny_vae()
    z = torch.randn(1, 4, 11, 4, 4)
    chunks = vae.decode_chunks(z, 37)
    first = next(iter(chunks))
    assert first.shape == (1, 3, 17, 8, 8)
    changed = z.clone()
    changed[:, :, 5:] = 0
    assert torch.equal(first, next(iter(vae.decode_chunks(changed, 37))))
    assert vae.decode(z, 37).shape == (1, 3, 37, 8, 8)


@torch.inference_mode()
def test_micro_batches_do_not_change_numbers() -> None:
    x = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    one, all_at_once = tiny_vae(micro_batch_size=1), tiny_vae(micro_batch_size=None)
    torch.testing.assert_close(one.encode(x), all_at_once.encode(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames, latents", [(20, 5), (0, 0), (17, 6)])
def test_decode_refuses_frames_that_do_not_belong(frames: int, latents: int) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames have"):
        tiny_vae().decode(torch.zeros(1, 4, latents, 2, 2), frames)


def test_encode_refuses_pictures_smaller_than_a_place() -> None:
    with pytest.raises(ValueError, match=r"1, 1, 8.*smaller than one latent place"):
        tiny_vae().encode(torch.zeros(1, 3, 1, 1, 8))


@torch.inference_mode()
def test_tiling_blends_to_nearly_the_same_picture() -> None:
    vae = tiny_vae()
    z = torch.randn(1, 4, 1, 24, 24)
    whole = vae.decode(z, 1)
    vae.enable_tiling(tile_size=32)
    tiled = vae.decode(z, 1)
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.2 * whole.std()
    vae.disable_tiling()
    assert torch.equal(vae.decode(z, 1), whole)
