"""Open-Sora v1.2's video VAE: a 2D autoencoder on every frame, a temporal one on chunks of its latents.

Shape legend: B batch, T frames, t latent frames, H, W pixels, h, w latent rows and columns, Z latent channels.

Source: Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora, Apache-2.0). Parameter names are those of its checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.protocols import Each, here
from videoaccel.models.temporal_vae import TemporalVAE

Noise = Callable[[torch.Size, torch.dtype], Tensor]
"""Returns standard normal numbers of a shape and type; called once per draw, in the original's order."""

LOGVAR_RANGE = (-30.0, 20.0)
RELEASED_2D = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "scale_applied": 0.18215,
}


class SpatialVAE(nn.Module):
    """Holds the 2D autoencoder under the name that the checkpoint has for it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        fields = {key: value for key, value in config.items() if key != "scale_applied"}
        levels = len(fields["block_out_channels"])
        self.module = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **fields,
        )


class VideoAutoencoder(StrictLoading, ModelMixin, ConfigMixin):
    """Encodes clips to normalised latents and back.

    Chunking in time (17 frames to 5 latents in the release) changes numbers and so belongs to the model; micro-batching
    of images does not.

    Args:
        vae_2d: Fields of diffusers' ``AutoencoderKL``, and ``scale_applied``, the factor on its latents.
        vae_temporal: Fields of :class:`videoaccel.models.temporal_vae.TemporalVAE`.
        micro_frame_size: Frames to a chunk; None takes a clip as one chunk.
        micro_batch_size: Images that go through the 2D networks at once.
        latents_mean: Mean of each latent channel, removed by :meth:`encode`; ``shift`` in the release's files.
        latents_std: Deviation of each latent channel, likewise; ``scale`` there.

    Raises:
        ValueError: The fields do not fit together.
    """

    ignored_fields = frozenset({"from_pretrained", "freeze_vae_2d", "cal_loss"})
    shift: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        vae_2d: Mapping[str, Any],
        vae_temporal: Mapping[str, Any],
        micro_frame_size: int | None = 17,
        micro_batch_size: int | None = 4,
        latents_mean: Sequence[float] = (-0.10, 0.34, 0.27, 0.98),
        latents_std: Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()
        self.spatial_vae = SpatialVAE(vae_2d)
        self.temporal_vae = TemporalVAE(**vae_temporal)
        self.scale_applied = float(vae_2d.get("scale_applied", RELEASED_2D["scale_applied"]))
        for name, values in (("shift", latents_mean), ("scale", latents_std)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1))

    @classmethod
    def translate_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The release names its sub-networks by type instead of spelling out their fields."""
        names = {"shift": "latents_mean", "scale": "latents_std"}
        fields = {names.get(key, key): value for key, value in config.items()}
        if "type" in fields.get("vae_2d", {}):
            fields["vae_2d"] = RELEASED_2D
        if "type" in fields.get("vae_temporal", {}):
            fields["vae_temporal"] = {}
        return fields

    @property
    def space_factor(self) -> int:
        """Pixels to a latent row or column."""
        return 2 ** (len(self.config.vae_2d["block_out_channels"]) - 1)

    @property
    def chunk_frames(self) -> int | None:
        """Frames to a chunk; None if a clip is one."""
        frames: int | None = self.config.micro_frame_size
        return frames

    @property
    def latent_channels(self) -> int:
        """Z."""
        return self.scale.shape[1]

    def enable_tiling(self, *, tile_size: int = 512) -> None:
        """Run the 2D networks on overlapping tiles of this many pixels; saves memory, blends tiles, changes numbers."""
        module = self.spatial_vae.module
        module.enable_tiling()
        module.tile_sample_min_size, module.tile_latent_min_size = tile_size, tile_size // self.space_factor

    def disable_tiling(self) -> None:
        """Run the 2D networks on whole pictures again."""
        self.spatial_vae.module.disable_tiling()

    @property
    def _chunk_latents(self) -> int:
        """Latent frames of a whole chunk."""
        assert self.config.micro_frame_size is not None
        return -(-self.config.micro_frame_size // self.temporal_vae.time_factor)

    def latent_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip of T, H, W."""
        frames, height, width = size
        chunk, factor = self.config.micro_frame_size, self.temporal_vae.time_factor
        whole, rest = divmod(frames, chunk) if chunk else (0, frames)
        latents = -(-rest // factor) + (whole * self._chunk_latents if whole else 0)
        return latents, height // self.space_factor, width // self.space_factor

    @apply_forward_hook
    def encode(self, x: Tensor, *, noise: Noise | None = None, each: Each = here) -> Tensor:
        """Encode clips [B, 3, T, H, W] in [-1, 1] to latents [B, Z, t, h, w].

        Args:
            x: The clips.
            noise: Source of the posteriors' samples, drawn per 2D micro batch, then per chunk; None takes their modes.
            each: Does independent pieces of the work: the 2D micro batches, then the chunks.

        Raises:
            ValueError: A clip smaller than one latent place.
        """
        if min(self.latent_size(x.shape[2:])) == 0:
            raise ValueError(
                f"clips of {list(x.shape[2:])} frames x height x width are smaller than one latent place "
                f"({self.space_factor} x {self.space_factor} pixels)"
            )
        spatial = self._encode_frames(x, noise, each)
        chunks = spatial.split(self.config.micro_frame_size or spatial.shape[2], dim=2)
        moments = each([partial(self.temporal_vae.encode, chunk) for chunk in chunks])
        z = torch.cat([posterior_sample(one, noise) for one in moments], dim=2)
        return (z - self.shift) / self.scale

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Decode latents [B, Z, t, h, w] to clips [B, 3, num_frames, H, W], not clamped."""
        return torch.cat(list(self.decode_chunks(z, num_frames)), dim=2)

    @apply_forward_hook
    def decode_chunks(self, z: Tensor, num_frames: int) -> Iterator[Tensor]:
        """Decode chunk by chunk: [B, 3, <= micro_frame_size, H, W] each, so memory does not grow with length.

        Raises:
            ValueError: ``num_frames`` does not belong to that many latent frames.
        """
        expected = self.latent_size((num_frames, 1, 1))[0]
        if expected != z.shape[2] or num_frames < 1:
            raise ValueError(f"{num_frames} frames have {expected} latent frames, got {z.shape[2]}")
        chunks = self.chunks(z, num_frames)
        return (self._decode_frames(self.decode_spatial_latent(chunk, frames)) for chunk, frames in chunks)

    @apply_forward_hook
    def decode_piece(self, z: Tensor, num_frames: int, start: int, stop: int) -> Tensor:
        """Decode some frames of one chunk, [B, 3, stop - start, H, W]; the temporal half runs for all of them."""
        return self._decode_frames(self.decode_spatial_latent(z, num_frames)[:, :, start:stop])

    def chunks(self, z: Tensor, num_frames: int) -> list[tuple[Tensor, int]]:
        """Cut a latent into independently decodable chunks, each with its number of frames."""
        if self.config.micro_frame_size is None:
            return [(z, num_frames)]
        step = self.config.micro_frame_size
        lengths = [min(step, num_frames - start) for start in range(0, num_frames, step)]
        return list(zip(z.split(self._chunk_latents, dim=2), lengths, strict=True))

    def decode_spatial_latent(self, z: Tensor, num_frames: int) -> Tensor:
        """The temporal decoder alone: one chunk [B, Z, t, h, w] -> 2D latents [B, Z, num_frames, h, w]."""
        return self.temporal_vae.decode(z.to(self.scale.dtype) * self.scale + self.shift, num_frames)

    def encode_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (times the 2D factor) and log-variance of the 2D posterior of every frame, [B, Z, T, h, w] each."""
        frames = x.to(self.scale.dtype).transpose(1, 2)
        vae = self.spatial_vae.module
        moments = torch.cat([vae._encode(part) for part in self._micro_batches(frames.flatten(0, 1))])
        mean, logvar = moments.unflatten(0, frames.shape[:2]).transpose(1, 2).chunk(2, dim=1)
        return mean * self.scale_applied, logvar.clamp(*LOGVAR_RANGE)

    def _encode_frames(self, x: Tensor, noise: Noise | None, each: Each) -> Tensor:
        frames = x.to(self.scale.dtype).transpose(1, 2)
        vae = self.spatial_vae.module
        moments = each([partial(vae._encode, part) for part in self._micro_batches(frames.flatten(0, 1))])
        latents = [posterior_sample(one, noise) for one in moments]
        return torch.cat(latents).unflatten(0, frames.shape[:2]).transpose(1, 2) * self.scale_applied

    def _decode_frames(self, spatial: Tensor) -> Tensor:
        frames = spatial.transpose(1, 2) / self.scale_applied
        vae = self.spatial_vae.module
        images = [vae._decode(part).sample for part in self._micro_batches(frames.flatten(0, 1))]
        return torch.cat(images).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def _micro_batches(self, images: Tensor) -> Sequence[Tensor]:
        return images.split(self.config.micro_batch_size or images.shape[0])


def posterior_sample(moments: Tensor, noise: Noise | None) -> Tensor:
    """A sample of the posterior with these moments (mean and log-variance stacked in channels), or its mode."""
    mean, logvar = moments.chunk(2, dim=1)
    if noise is None:
        return mean
    deviation = torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE))
    return mean + deviation * noise(mean.shape, mean.dtype).to(mean)
