"""PixArt, the text-to-image transformer: self- and cross-attention and MLP, modulated by one network (adaLN-single).

PixArt-alpha and PixArt-Sigma are one network; some alphas are told the size of the picture, and a Sigma reads longer
prompts. An image is a clip of one frame. All modules stand behind the seam (:mod:`videoaccel.models.seam`); this file
knows nothing of caches or ranks. Parameter names and configuration fields are those of diffusers'
``PixArtTransformer2DModel``, whose weights load unchanged.

Shape legend: B batch, R rows of a shared input (R divides B), S = H*W places in the image, C hidden size, L tokens.

Source: PixArt-alpha and -Sigma (https://github.com/PixArt-alpha, arXiv 2310.00426 and 2403.04692) as they are in
diffusers 0.42.
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
    one_frame,
    place_table,
    unpatchify,
)
from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.layers import compact_text, repeat_rows
from videoaccel.models.seam import BODY, Run, Site, direct

TOLD_ITS_SIZE = 128
"""The ``sample_size`` of networks that are told the size of the picture if their configuration does not say."""


class PixArt(StrictLoading, ModelMixin, ConfigMixin):
    """Predicts the noise in an image latent under a text.

    Fields and their defaults are those of diffusers, so that a file that leaves one out means the same here.

    Args:
        caption_channels: Width of the text encoder.
        num_attention_heads: N.
        attention_head_dim: D; C = N * D.
        in_channels: Latent channels.
        out_channels: Channels predicted, None for ``in_channels``; the release has twice as many, and sampling does
            not use its second half (a learned variance), here and in diffusers.
        num_layers: Number of blocks.
        dropout: For training; unused here.
        cross_attention_dim: C.
        attention_bias: Queries, keys and values have a bias.
        sample_size: Side in latent places of the pictures that the positions were made for.
        patch_size: Latent rows and columns to a token.
        activation_fn: ``gelu-approximate`` or ``gelu``.
        num_embeds_ada_norm: Unused by this norm.
        norm_type: ``ada_norm_single``.
        norm_elementwise_affine: The blocks' norms have weights.
        norm_eps: Epsilon of the blocks' norms.
        interpolation_scale: Positions are divided by it; None for ``sample_size // 64``, at least 1.
        use_additional_conditions: The network is told the picture's height, width and their ratio; None for whether
            ``sample_size`` is 128.

    Raises:
        ValueError: A field has a value that no PixArt has, or the sizes do not suit each other.
    """

    reads_classes = False
    keeps_frames = False
    learns_null_text = False
    null_text_is_padded = False
    null_text = None

    # They choose kernels or are unused, or are of older files; diffusers passes over them, too.
    ignored_fields = frozenset(
        {
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
        caption_channels: int,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = 8,
        num_layers: int = 28,
        dropout: float = 0.0,
        cross_attention_dim: int = 1152,
        attention_bias: bool = True,
        sample_size: int = 128,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        num_embeds_ada_norm: int | None = 1000,
        norm_type: str = "ada_norm_single",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        interpolation_scale: float | None = None,
        use_additional_conditions: bool | None = None,
    ) -> None:
        super().__init__()
        size = checked_width(num_attention_heads, attention_head_dim)
        check_kinds(norm_type, activation_fn, norm="ada_norm_single")
        if cross_attention_dim != size:
            raise ValueError(f"cross_attention_dim must be the hidden size {size}, got {cross_attention_dim}")
        unsaid = use_additional_conditions is None
        self.is_told_size = sample_size == TOLD_ITS_SIZE if unsaid else bool(use_additional_conditions)
        if self.is_told_size and size % 3:
            raise ValueError(f"height, width and ratio take a third of the channels each, and {size} have none")
        self.out_channels = in_channels if out_channels is None else out_channels
        self.base_size = sample_size // patch_size
        self.place_scale = max(sample_size // 64, 1) if interpolation_scale is None else interpolation_scale
        self.pos_embed = PatchEmbedding(in_channels, size, patch_size)
        self.transformer_blocks = nn.ModuleList(
            SingleBlock(
                size,
                num_attention_heads,
                axis="space",
                layer=layer,
                reads_text=True,
                bias=attention_bias,
                approximate=ACTIVATIONS[activation_fn],
                affine=norm_elementwise_affine,
                eps=norm_eps,
            )
            for layer in range(num_layers)
        )
        self.scale_shift_table = nn.Parameter(torch.randn(2, size) / size**0.5)
        self.proj_out = nn.Linear(size, patch_size**2 * self.out_channels)
        self.adaln_single = TimeModulation(size, sized=self.is_told_size)
        self.caption_projection = CaptionProjection(caption_channels, size)

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
        return list(self.transformer_blocks)  # type: ignore[arg-type]

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
        """Frames (one), rows and columns of tokens for a latent of 1, H', W'.

        Raises:
            ValueError: Rows or columns are no whole patches, or there are several frames.
        """
        return one_frame(latent_size, self.config.patch_size, name="PixArt")

    @apply_forward_hook
    def prepare(
        self,
        y: Tensor,
        *,
        mask: Tensor | None = None,
        height: Tensor | float | None = None,
        width: Tensor | float | None = None,
        latent_size: Sequence[int],
        **ignored: Any,
    ) -> BlockContext:
        """Compute what stays the same through a generation: text, size and positions.

        Args:
            y: Text states [B, 1, L, caption_channels].
            mask: [R, L], nonzero where a token counts, each row at least once; None counts all.
            height: Of the picture in pixels, a number or [R]; read by a network that is told it.
            width: Likewise.
            latent_size: 1, H', W' of the latent.
            **ignored: ``fps``, which this model is not told.

        Raises:
            ValueError: A row of ``mask`` is empty, a row count does not divide the batch, or the size is missing; or as
                in :meth:`token_grid`.
        """
        if unknown := sorted(ignored.keys() - {"fps"}):
            raise ValueError(f"unknown argument {unknown[0]!r} for PixArt")
        weight = self.pos_embed.proj.weight
        text = self.caption_projection(y.squeeze(1).to(weight.dtype))
        text, text_mask = compact_text(text, None if mask is None else repeat_rows(mask, len(y), "mask"))
        _, rows, columns = self.token_grid(latent_size)
        places = place_table(rows, columns, self.width, base=self.base_size, scale=self.place_scale)
        return BlockContext(
            places=places.to(y.device)[None, None],
            keys_values=tuple(block.attn2.keys_values(text) for block in self.blocks if block.attn2 is not None),
            text_mask=text_mask,
            told=(self._size(height, width, like=y),) if self.is_told_size else (),
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor | None = None,
        *,
        x_mask: Tensor | None = None,
        context: BlockContext | None = None,
        run: Run = direct,
        **options: Any,
    ) -> Tensor:
        """Predict the noise; with twice the latent's channels a second half follows that sampling does not use.

        Args:
            x: Latent [B, in_channels, 1, H', W'].
            timestep: [B], 999 = noise, 0 = nearly clean.
            y: Text states, with ``mask``, ``height`` and ``width`` as in :meth:`prepare`; or give ``context``.
            x_mask: None: this model keeps no given frames.
            context: What :meth:`prepare` returned, to compute it once for many steps.
            run: The seam.
            **options: See :meth:`prepare`.

        Returns:
            float32 [B, out_channels, 1, H', W'].

        Raises:
            ValueError: Inputs do not fit together.
        """
        check_steps(x, timestep, x_mask, name="PixArt")
        if context is None:
            if y is None:
                raise ValueError("PixArt needs y, or a context made by prepare()")
            context = self.prepare(y, latent_size=x.shape[2:], **options)
        tokens = self.pos_embed(x)
        tokens = (tokens + context.places).to(tokens.dtype)
        modulation, time = self.adaln_single(timestep, *context.told)
        final = self.scale_shift_table + time[:, None, None, None]
        cond = Conditioning(context, modulation=(modulation[:, None, None],), final=final)
        out = run(BODY, Body(self.blocks, self.proj_out), tokens, cond)
        return unpatchify(out, self.token_grid(x.shape[2:])[1:], self.config.patch_size)

    def _size(self, height: Tensor | float | None, width: Tensor | float | None, *, like: Tensor) -> Tensor:
        """What is made of height and width for all rows, [B, C]."""
        if height is None or width is None:
            raise ValueError("this PixArt is told the size of the picture: it needs height and width in pixels")
        sides = [
            repeat_rows(torch.as_tensor(side, device=like.device).reshape(-1), len(like), name)
            for name, side in (("height", height), ("width", width))
        ]
        return self.adaln_single.size(*sides)


class PixArtSigma(PixArt):
    """The same network as released for prompts of up to 300 tokens."""

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """Tokens of a prompt that it reads; the configuration does not say, the release's pipeline does."""
        return 300
