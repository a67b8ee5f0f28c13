"""The frame VAE against diffusers' AutoencoderKL: the same weights, configuration and numbers."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from videoaccel.models.frame_vae import OLDER_NAMES, FrameAutoencoder

FIELDS = {
    "block_out_channels": (4, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "sample_size": 16,
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network saved by diffusers, its attention layers under the names that the released files have."""
    path = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(**FIELDS).save_pretrained(path)
    state = load_file(path / WEIGHTS)
    for old, new in OLDER_NAMES.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    assert any(".proj_attn." in key for key in state)
    save_file(state, path / WEIGHTS)
    return path


@torch.inference_mode()
def test_frames_are_diffusers_images(folder: Path) -> None:
    ours, theirs = FrameAutoencoder.from_pretrained(folder), AutoencoderKL.from_pretrained(folder).eval()
    clip = torch.rand(2, 3, 5, 12, 16) * 2 - 1
    images = clip.transpose(1, 2).flatten(0, 1)
    z, factor = ours.encode(clip), theirs.config.scaling_factor
    assert z.shape == (2, 4, *ours.latent_size((5, 12, 16))) and ours.space_factor == 2 and ours.latent_channels == 4
    expected = theirs.encode(images).latent_dist.mode() * factor
    torch.testing.assert_close(z.transpose(1, 2).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
    decoded = theirs.decode(expected / factor).sample
    made = ours.decode(z, 5)
    torch.testing.assert_close(made.transpose(1, 2).flatten(0, 1), decoded, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_noise_samples_the_posterior(folder: Path) -> None:
    vae, clip = FrameAutoencoder.from_pretrained(folder), torch.zeros(1, 3, 6, 8, 8)
    shapes = []

    def noise(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        shapes.append(list(shape))
        return torch.zeros(shape, dtype=dtype)

    assert torch.equal(vae.encode(clip, noise=noise), vae.encode(clip))
    assert shapes == [[4, 4, 4, 4], [2, 4, 4, 4]]


@torch.inference_mode()
def test_chunks_come_one_by_one(folder: Path) -> None:
    vae, z = FrameAutoencoder.from_pretrained(folder), torch.randn(1, 4, 19, 4, 4)
    chunks = list(vae.decode_chunks(z, 19))
    assert [chunk.shape[2] for chunk in chunks] == [16, 3] == [frames for _, frames in vae.chunks(z, 19)]
    torch.testing.assert_close(torch.cat(chunks, 2)[:, :, 17:18], vae.decode(z[:, :, 17:18], 1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="18 frames have 18 latent frames, got 19"):
        vae.decode(z, 18)


@torch.inference_mode()
def test_tiling_can_be_switched(folder: Path) -> None:
    vae, z = FrameAutoencoder.from_pretrained(folder), torch.randn(1, 4, 1, 24, 24)
    whole = vae.decode(z, 1)
    vae.enable_tiling(tile_size=32)
    assert not torch.equal(vae.decode(z, 1), whole)
    vae.disable_tiling()
    assert torch.equal(vae.decode(z, 1), whole)


def test_misfits_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shift_factor must be null"):
        FrameAutoencoder.build({**FIELDS, "shift_factor": 0.1})
    with pytest.raises(ValueError, match="unknown field 'filters'"):
        FrameAutoencoder.build({**FIELDS, "filters": 4})
    state = load_file(folder / WEIGHTS)
    state.pop("decoder.mid_block.attentions.0.query.weight")
    save_file(state, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"missing decoder\.mid_block\.attentions\.0\.to_q\.weight \[8, 8\]"):
        FrameAutoencoder.from_pretrained(tmp_path)
