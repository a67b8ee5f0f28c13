"""Latte, the text-to-video transformer of Vchitect: spatial blocks that read the text, temporal blocks that do not.

All modules stand behind the seam (:mod:`videoaccel.models.seam`); this file knows nothing of caches or ranks.
Parameter names and configuration fields are those of diffusers' ``LatteTransformer3DModel``, whose weights load
unchanged.

Shape legend: B batch, R rows of a shared input (R divides B), T frames, S = H*W places in a frame, C hidden size,
L text tokens.

Source: Latte (https://github.com/Vchitect/Latte, Apache-2.0, arXiv 2401.03048) as it is in diffusers 0.42.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from videoaccel.models.basic_blocks import BlockContext, Body, Conditioning, SingleBlock
from videoaccel.models.basic_layers import (
    ACTIVATIONS,
    CaptionProjection,
    PatchEmbedding,
    TimeModulation,
    check_kinds,
    check_steps,
    checked_width,
    grid_of,
    place_table,
    sinusoids,
    unpatchify,
)
from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.layers import compact_text, repeat_rows
from videoaccel.models.seam import BODY, Axis, Run, Site, direct

AXES: tuple[Axis, Axis] = ("space", "time")


class Latte(StrictLoading, ModelMixin, ConfigMixin):
    """Predicts the noise in a video latent under a text.

    Fields and their defaults are those of diffusers, so that a file that leaves one out means the same here. The
    released Latte-1 differs from the defaults in most of them.

    Args:
        in_channels: Latent channels.
        patch_size: Latent rows and columns to a token.
        caption_channels: Width of the text encoder.
        num_attention_heads: N.
        attention_head_dim: D; C = N * D.
        out_channels: Channels predicted, None for ``in_channels``; the release has twice as many, and sampling does
            not use its second half (a learned variance).
        num_layers: Number of PAIRS of a spatial and a temporal block.
        dropout: For training; unused here.
        cross_attention_dim: C, or None for spatial blocks that do not read the text.
        attention_bias: Queries, keys and values have a bias.
        sample_size: Side in latent places of the pictures that the place positions were made for.
        activation_fn: ``gelu-approximate`` or ``gelu``.
        num_embeds_ada_norm: Unused by this norm.
        norm_type: ``ada_norm_single``.
        norm_elementwise_affine: The blocks' norms have weights.
        norm_eps: Epsilon of the blocks' norms.
        video_length: T of a video; an image has one frame.

    Raises:
        ValueError: A field has a value that no Latte has, or the sizes do not suit each other.
    """

    reads_classes = False
    keeps_frames = False
    learns_null_text = False
    null_text_is_padded = True
    null_text = None

    # Of older files, whose classes chose kernels by them or left them unused; diffusers passes over them, too.
    ignored_fields = frozenset(
        {
            "attention_mode",
            "attention_type",
            "double_self_attention",
            "norm_num_groups",
            "num_vector_embeds",
            "only_cross_attention",
            "upcast_attention",
            "use_linear_projection",
        }
    )

    @register_to_config
    def __init__(
        self,
        *,
        in_channels: int,
        patch_size: int,
        caption_channels: int,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        out_channels: int | None = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        cross_attention_dim: int | None = None,
        attention_bias: bool = False,
        sample_size: int = 64,
        activation_fn: str = "geglu",
        num_embeds_ada_norm: int | None = None,
        norm_type: str = "layer_norm",
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        video_length: int = 16,
    ) -> None:
        super().__init__()
        size = checked_width(num_attention_heads, attention_head_dim)
        check_kinds(norm_type, activation_fn, norm="ada_norm_single")
        if cross_attention_dim not in (None, size):
            raise ValueError(f"cross_attention_dim must be the hidden size {size} or null, got {cross_attention_dim}")
        self.out_channels = in_channels if out_channels is None else out_channels
        self.base_size, self.place_scale = sample_size // patch_size, max(sample_size // 64, 1)
        self.pos_embed = PatchEmbedding(in_channels, size, patch_size)
        self.adaln_single = TimeModulation(size)
        self.caption_projection = CaptionProjection(caption_channels, size)
        self.transformer_blocks, self.temporal_transformer_blocks = (
            nn.ModuleList(
                SingleBlock(
                    size,
                    num_attention_heads,
                    axis=axis,
                    layer=layer,
                    reads_text=axis == "space" and cross_attention_dim is not None,
                    bias=attention_bias,
                    approximate=ACTIVATIONS[activation_fn],
                    affine=norm_elementwise_affine,
                    eps=norm_eps,
                )
                for layer in range(num_layers)
            )
            for axis in AXES
        )
        self.scale_shift_table = nn.Parameter(torch.randn(2, size) / size**0.5)
        self.proj_out = nn.Linear(size, patch_size**2 * self.out_channels)

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """Tokens of a prompt that it reads; the configuration does not say, the release's pipeline does."""
        return 120

    @classmethod
    def classes_read(cls, config: Mapping[str, Any]) -> int:
        """It reads texts."""
        return 0

    @property
    def text_width(self) -> int:
        """Width of the text encoder."""
        return int(self.config.caption_channels)

    @property
    def blocks(self) -> list[SingleBlock]:
        """All blocks in the order in which they run."""
        pairs = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        return [block for pair in pairs for block in pair]  # type: ignore[misc]

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.config["num_attention_heads"] * self.config["attention_head_dim"]

    @property
    def sites(self) -> dict[Site, tuple[Site, ...]]:
        """Where the blocks stand, in the order in which they run, each with its modules."""
        return {block.site: block.sites for block in self.blocks}

    @property
    def patch(self) -> tuple[int, int]:
        """Latent rows and columns to a place."""
        return self.config.patch_size, self.config.patch_size

    def token_grid(self, latent_size: Sequence[int]) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens for a latent of T, H', W'.

        Raises:
            ValueError: Rows or columns are no whole patches, or the frames neither an image nor a video.
        """
        frames, rows, columns = grid_of(latent_size, self.config.patch_size)
        if frames not in (1, self.config.video_length):
            raise ValueError(
                f"this Latte makes images (1 latent frame) or videos of {self.config.video_length}, not of {frames}"
            )
        return frames, rows, columns

    @apply_forward_hook
    def prepare(
        self,
        y: Tensor,
        *,
        mask: Tensor | None = None,
        latent_size: Sequence[int],
        enable_temporal_attentions: bool = True,
        **ignored: Any,
    ) -> BlockContext:
        """Compute what stays the same through a generation: text and positions.

        Args:
            y: Text states [B, 1, L, caption_channels].
            mask: [R, L], nonzero where a token counts, each row at least once; None counts all. diffusers' model takes
                such a mask only repeated for every frame, and its pipeline none: it cuts the text of a lone prompt.
            latent_size: T, H', W' of the latent.
            enable_temporal_attentions: False leaves the temporal blocks out: every frame for itself.
            **ignored: ``fps``, ``height`` and ``width``, which this model is not told.

        Raises:
            ValueError: A row of ``mask`` is empty, or a row count does not divide the batch; or as in
                :meth:`token_grid`.
        """
        _refuse_unknown(ignored, {"fps", "height", "width"})
        weight = self.pos_embed.proj.weight
        text = self.caption_projection(y.squeeze(1).to(weight.dtype))
        text, text_mask = compact_text(text, None if mask is None else repeat_rows(mask, len(y), "mask"))
        frames, rows, columns = self.token_grid(latent_size)
        places = place_table(rows, columns, weight.shape[0], base=self.base_size, scale=self.place_scale)
        times = sinusoids(torch.arange(frames), weight.shape[0]).to(weight)
        return BlockContext(
            keys_values=tuple(block.attn2.keys_values(text) for block in self.blocks if block.attn2 is not None),
            text_mask=text_mask,
            places=places.to(y.device)[None, None],
            times=times[None, :, None] if frames > 1 else None,
            temporal=enable_temporal_attentions,
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        context: BlockContext | None = None,
        run: Run = direct,
        **options: Any,
    ) -> Tensor:
        """Predict the noise; with twice the latent's channels a second half follows that sampling does not use.

        Args:
            x: Latent [B, in_channels, T, H', W'].
            timestep: [B], 999 = noise, 0 = nearly clean.
            y: Text states, with ``mask`` and ``enable_temporal_attentions`` as in :meth:`prepare`; or give ``context``.
            mask: See :meth:`prepare`.
            x_mask: None: this model keeps no given frames.
            context: What :meth:`prepare` returned, to compute it once for many steps.
            run: The seam.
            **options: See :meth:`prepare`.

        Returns:
            float32 [B, out_channels, T, H', W'].

        Raises:
            ValueError: Inputs do not fit together.
        """
        check_steps(x, timestep, x_mask, name="Latte")
        if context is None:
            if y is None:
                raise ValueError("Latte needs y, or a context made by prepare()")
            context = self.prepare(y, mask=mask, latent_size=x.shape[2:], **options)
        tokens = self.pos_embed(x)
        tokens = (tokens + context.places).to(tokens.dtype)
        modulation, time = self.adaln_single(timestep)
        final = self.scale_shift_table + time[:, None, None, None]
        cond = Conditioning(context, modulation=(modulation[:, None, None],), final=final)
        blocks = [block for block in self.blocks if context.temporal or block.axis == "space"]
        out = run(BODY, Body(blocks, self.proj_out), tokens, cond)
        return unpatchify(out, self.token_grid(x.shape[2:])[1:], self.config.patch_size)


def _refuse_unknown(given: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"unknown argument {unknown[0]!r} for Latte")
