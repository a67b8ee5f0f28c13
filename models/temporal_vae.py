"""The temporal half of Open-Sora v1.2's video VAE: a causal 3D autoencoder over latents of the 2D one.

All convolutions pad time in front only, with zeros, so a frame never sees later ones.

Shape legend: B batch, C channels, T frames, t latent frames (T/4 here), H, W.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

GROUP_NORM_EPS = 1e-5


class CausalConv3d(nn.Module):
    """3D convolution, zero-padded to both sides in space and to the front in time."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.padding = (kernel // 2,) * 4 + (max(kernel - time_stride, 0), 0)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride=(time_stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T / time_stride, H, W]."""
        return self.conv(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice; a 1x1x1 shortcut where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=GROUP_NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=GROUP_NORM_EPS)
        self.act = nn.SiLU()
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        if in_channels != out_channels:
            self.conv3 = CausalConv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T, H, W]."""
        h = self.conv1(self.act(self.norm1(x)))
        h = self.conv2(self.act(self.norm2(h)))
        return h + (self.conv3(x) if hasattr(self, "conv3") else x)


def _res_blocks(count: int, in_channels: int, out_channels: int, groups: int) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * count
    return nn.ModuleList(ResBlock(a, b, groups) for a, b in pairwise(widths))


def _through(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


class TemporalEncoder(nn.Module):
    """Levels of residual blocks; a level flagged for it halves the frames afterwards."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        filters: int,
        multipliers: Sequence[int],
        downsample: Sequence[bool],
        num_res_blocks: int,
        groups: int,
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in multipliers]
        self.conv_in = CausalConv3d(in_channels, filters, 3, bias=False)
        self.block_res_blocks, self.conv_blocks = nn.ModuleList(), nn.ModuleList()
        for level, (width, before) in enumerate(zip(widths, [filters, *widths], strict=False)):
            self.block_res_blocks.append(_res_blocks(num_res_blocks, before, width, groups))
            if level < len(downsample):
                self.conv_blocks.append(
                    CausalConv3d(width, width, 3, time_stride=2) if downsample[level] else nn.Identity()
                )
        self.res_blocks = _res_blocks(num_res_blocks, widths[-1], widths[-1], groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1], eps=GROUP_NORM_EPS)
        self.act = nn.SiLU()
        self.conv2 = CausalConv3d(widths[-1], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', t, H, W]."""
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = _through(cast(nn.ModuleList, blocks), x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        x = _through(self.res_blocks, x)
        return self.conv2(self.act(self.norm1(x)))


class TemporalDecoder(nn.Module):
    """The encoder in reverse; frames are doubled by moving half of the channels into time."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        filters: int,
        multipliers: Sequence[int],
        downsample: Sequence[bool],
        num_res_blocks: int,
        groups: int,
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in multipliers]
        self.conv1 = CausalConv3d(in_channels, widths[-1], 3)
        self.res_blocks = _res_blocks(num_res_blocks, widths[-1], widths[-1], groups)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks(num_res_blocks, before, width, groups)
            for width, before in zip(widths, [*widths[1:], widths[-1]], strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(widths[level + 1], 2 * widths[level + 1], 3) if flag else nn.Identity()
            for level, flag in enumerate(downsample)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0], eps=GROUP_NORM_EPS)
        self.act = nn.SiLU()
        self.conv_out = CausalConv3d(widths[0], out_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C', t, H, W] -> [B, C, T, H, W]."""
        x = self.conv1(z)
        x = _through(self.res_blocks, x)
        for level in reversed(range(len(self.block_res_blocks))):
            x = _through(cast(nn.ModuleList, self.block_res_blocks[level]), x)
            if level > 0 and not isinstance(upsample := self.conv_blocks[level - 1], nn.Identity):
                x = _channels_to_frames(upsample(x))
        return self.conv_out(self.act(self.norm1(x)))


def _channels_to_frames(x: Tensor) -> Tensor:
    """[B, 2C, T, H, W] -> [B, C, 2T, H, W]; channel 2c + step becomes channel c of frame 2t + step."""
    return x.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3)


class TemporalVAE(nn.Module):
    """Encodes chunks of frames to a quarter of them (by two halvings in the release) and back.

    Args:
        in_out_channels: Channels of the 2D latent.
        latent_embed_dim: Channels that the decoder reads.
        embed_dim: Channels of the latent.
        filters: Width of the first level.
        channel_multipliers: Width of each level over ``filters``.
        num_res_blocks: Residual blocks to a level.
        num_groups: Groups of the norms.
        temporal_downsample: Whether the frames are halved after each level but the last.
    """

    def __init__(
        self,
        *,
        in_out_channels: int = 4,
        latent_embed_dim: int = 4,
        embed_dim: int = 4,
        filters: int = 128,
        num_res_blocks: int = 4,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_groups: int = 32,
        temporal_downsample: Sequence[bool] = (False, True, True),
    ) -> None:
        super().__init__()
        if len(temporal_downsample) != len(channel_multipliers) - 1:
            raise ValueError(
                f"temporal_downsample needs one flag fewer than channel_multipliers: "
                f"{len(temporal_downsample)} flags for {len(channel_multipliers)} levels"
            )
        self.time_factor: int = 2 ** sum(temporal_downsample)
        levels = {
            "filters": filters,
            "multipliers": channel_multipliers,
            "downsample": temporal_downsample,
            "num_res_blocks": num_res_blocks,
            "groups": num_groups,
        }
        self.encoder = TemporalEncoder(in_out_channels, 2 * latent_embed_dim, **levels)  # type: ignore[arg-type]
        self.quant_conv = CausalConv3d(2 * latent_embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = CausalConv3d(embed_dim, latent_embed_dim, 1)
        self.decoder = TemporalDecoder(latent_embed_dim, in_out_channels, **levels)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> Tensor:
        """Moments of the latent: [B, C, T, H, W] -> [B, 2 * embed_dim, ceil(T / time_factor), H, W].

        Zero frames are put in front up to a multiple of ``time_factor``.
        """
        return self.quant_conv(self.encoder(F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.time_factor, 0))))

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """[B, embed_dim, t, H, W] -> [B, C, num_frames, H, W]; frames of the padding in front are dropped."""
        x = self.decoder(self.post_quant_conv(z))
        return x[:, :, -num_frames % self.time_factor :]
