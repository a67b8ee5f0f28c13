"""An image autoencoder for video, frame by frame: Stable Diffusion's VAE, which Latte is trained on.

Shape legend: B batch, T frames (and as many latent frames), H, W pixels, h, w latent rows and columns, Z latent
channels.

Source: diffusers' ``AutoencoderKL``, whose weights and configurations load unchanged.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (where diffusers looks how to load the class)
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.protocols import Each, here
from videoaccel.models.video_vae import Noise, posterior_sample

OLDER_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Attention layers of files from before 2023, such as the released ones, and what they are called now."""


class FrameAutoencoder(StrictLoading, AutoencoderKL):
    """Encodes clips to scaled latents and back, every frame for itself. Its fields are those of ``AutoencoderKL``.

    Raises:
        ValueError: The latents are to be shifted, or scaled channel by channel, which no frame VAE known here needs.
    """

    chunk_frames = 16
    """Frames to a chunk of :meth:`decode_chunks`; chunks do not change numbers."""

    micro_batch_size = 4
    """Frames that go through the networks at once."""

    @classmethod
    def translate_config(cls, config: dict[str, object]) -> dict[str, object]:
        """Refuse what :meth:`encode` and :meth:`decode_chunks` do not do."""
        for name in ("shift_factor", "latents_mean", "latents_std"):
            if config.get(name) is not None:
                raise ValueError(f"{cls.__name__} scales latents by one factor; {name} must be null")
        return config

    @classmethod
    def translate_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the attention layers of older files their present names."""
        for old, new in OLDER_NAMES.items():
            state = {key.replace(old, new) if ".attentions." in key else key: value for key, value in state.items()}
        return state

    @property
    def space_factor(self) -> int:
        """Pixels to a latent row or column."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Z."""
        return int(self.config.latent_channels)

    def latent_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip of T, H, W."""
        frames, height, width = size
        return frames, height // self.space_factor, width // self.space_factor

    def enable_tiling(self, *, tile_size: int = 512) -> None:
        """Work on overlapping tiles of this many pixels; saves memory, blends tiles, changes numbers."""
        super().enable_tiling()
        self.tile_sample_min_size, self.tile_latent_min_size = tile_size, tile_size // self.space_factor

    @apply_forward_hook
    def encode(self, x: Tensor, *, noise: Noise | None = None, each: Each = here) -> Tensor:
        """Encode clips [B, 3, T, H, W] in [-1, 1] to latents [B, Z, T, h, w].

        Args:
            x: The clips.
            noise: Source of the posteriors' samples, drawn per micro batch; None takes their modes.
            each: Does independent pieces of the work, the micro batches.
        """
        frames = x.to(self.dtype).transpose(1, 2)
        parts = frames.flatten(0, 1).split(self.micro_batch_size)
        moments = each([partial(self._encode, part) for part in parts])
        latents = torch.cat([posterior_sample(one, noise) for one in moments])
        return latents.unflatten(0, frames.shape[:2]).transpose(1, 2) * self.config.scaling_factor

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Decode latents [B, Z, T, h, w] to clips [B, 3, T, H, W], not clamped."""
        return torch.cat(list(self.decode_chunks(z, num_frames)), dim=2)

    @apply_forward_hook
    def decode_chunks(self, z: Tensor, num_frames: int) -> Iterator[Tensor]:
        """Decode chunk by chunk, [B, 3, <= 16, H, W] each.

        Raises:
            ValueError: There is not a latent for every frame.
        """
        if num_frames != z.shape[2] or num_frames < 1:
            raise ValueError(f"{num_frames} frames have {num_frames} latent frames, got {z.shape[2]}")
        return (self._decode_frames(chunk) for chunk, _ in self.chunks(z, num_frames))

    @apply_forward_hook
    def decode_piece(self, z: Tensor, num_frames: int, start: int, stop: int) -> Tensor:
        """Decode some frames of a chunk, [B, 3, stop - start, H, W]."""
        return self._decode_frames(z[:, :, start:stop])

    def chunks(self, z: Tensor, num_frames: int) -> list[tuple[Tensor, int]]:
        """Cut a latent into chunks, each with its number of frames."""
        return [(chunk, chunk.shape[2]) for chunk in z.split(self.chunk_frames, dim=2)]

    def _decode_frames(self, z: Tensor) -> Tensor:
        frames = z.to(self.dtype).transpose(1, 2) / self.config.scaling_factor
        parts = frames.flatten(0, 1).split(self.micro_batch_size)
        images = torch.cat([self._decode(part).sample for part in parts])
        return images.unflatten(0, frames.shape[:2]).transpose(1, 2)
