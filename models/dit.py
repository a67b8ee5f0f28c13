"""DiT, the class-conditional image transformer: self-attention and MLP, modulated by timestep and class (adaLN-zero).

An image is a clip of one frame, a class is a text of one token whose only number is the class. All modules stand behind
the seam (:mod:`videoaccel.models.seam`); this file knows nothing of caches or ranks. Parameter names and configuration
fields are those of diffusers' ``DiTTransformer2DModel``, whose weights load unchanged.

Shape legend: B batch, S = H*W places in the image, C hidden size.

Source: DiT (https://github.com/facebookresearch/DiT, arXiv 2212.09748) as it is in diffusers 0.42.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from videoaccel.models.basic_blocks import BlockContext, Body, Conditioning, ZeroBlock
from videoaccel.models.basic_layers import (
    ACTIVATIONS,
    PatchEmbedding,
    check_kinds,
    check_steps,
    checked_width,
    one_frame,
    place_table,
    unpatchify,
)
from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.seam import BODY, Run, Site, direct


class DiT(StrictLoading, ModelMixin, ConfigMixin):
    """Predicts the noise in an image latent of a class.

    Fields and their defaults are those of diffusers, so that a file that leaves one out means the same here.

    Args:
        num_attention_heads: N.
        attention_head_dim: D; C = N * D.
        in_channels: Latent channels.
        out_channels: Channels predicted, None for ``in_channels``; the release has twice as many, and sampling does
            not use its second half (a learned variance), here and in diffusers.
        num_layers: Number of blocks.
        dropout: For training; unused here.
        attention_bias: Queries, keys and values have a bias.
        sample_size: Side in latent places of the pictures that the positions were made for.
        patch_size: Latent rows and columns to a token.
        activation_fn: ``gelu-approximate`` or ``gelu``.
        num_embeds_ada_norm: Number of classes; one more stands for none.
        norm_type: ``ada_norm_zero``.
        norm_elementwise_affine: The MLP's norms have weights.
        norm_eps: Epsilon of the MLP's norms.

    Raises:
        ValueError: A field has a value that no DiT has.
    """

    reads_classes = True
    keeps_frames = False
    learns_null_text = True
    null_text_is_padded = False

    # Of older files, whose class was the one for all 2D transformers, or unused; diffusers passes over them, too.
    ignored_fields = frozenset(
        {
            "attention_type",
            "caption_channels",
            "cross_attention_dim",
            "double_self_attention",
            "interpolation_scale",
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
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = None,
        num_layers: int = 28,
        dropout: float = 0.0,
        attention_bias: bool = True,
        sample_size: int = 32,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        num_embeds_ada_norm: int = 1000,
        norm_type: str = "ada_norm_zero",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        size = checked_width(num_attention_heads, attention_head_dim)
        check_kinds(norm_type, activation_fn, norm="ada_norm_zero")
        self.out_channels = in_channels if out_channels is None else out_channels
        self.base_size = sample_size // patch_size
        self.pos_embed = PatchEmbedding(in_channels, size, patch_size)
        self.transformer_blocks = nn.ModuleList(
            ZeroBlock(
                size,
                num_attention_heads,
                layer=layer,
                num_classes=num_embeds_ada_norm,
                bias=attention_bias,
                approximate=ACTIVATIONS[activation_fn],
                affine=norm_elementwise_affine,
                eps=norm_eps,
            )
            for layer in range(num_layers)
        )
        self.proj_out_1 = nn.Linear(size, 2 * size)
        self.proj_out_2 = nn.Linear(size, patch_size**2 * self.out_channels)

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """A class is one token."""
        return 1

    @classmethod
    def classes_read(cls, config: Mapping[str, Any]) -> int:
        """Number of classes, without the one that stands for none."""
        return int(config.get("num_embeds_ada_norm", 1000))

    @property
    def text_width(self) -> int:
        """A class is one number."""
        return 1

    @property
    def null_text(self) -> Tensor:
        """The class [1, 1] that stands for none."""
        return torch.tensor([[float(self.config.num_embeds_ada_norm)]])

    @property
    def blocks(self) -> list[ZeroBlock]:
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
        return one_frame(latent_size, self.config.patch_size, name="DiT")

    @apply_forward_hook
    def prepare(self, y: Tensor, *, latent_size: Sequence[int], **ignored: Any) -> BlockContext:
        """Compute what stays the same through a generation: classes and positions.

        Args:
            y: Classes [B, 1, 1, 1] in a type that holds them exactly: 0, 1, ..., and ``num_embeds_ada_norm`` for none.
            latent_size: 1, H', W' of the latent.
            **ignored: ``mask``, ``fps``, ``height`` and ``width``, which this model is not told.

        Raises:
            ValueError: A class is none of the network's; or as in :meth:`token_grid`.
        """
        if unknown := sorted(ignored.keys() - {"mask", "fps", "height", "width"}):
            raise ValueError(f"unknown argument {unknown[0]!r} for DiT")
        _, rows, columns = self.token_grid(latent_size)
        places = place_table(rows, columns, self.width, base=self.base_size, scale=1)
        return BlockContext(
            places=places.to(y.device)[None, None],
            told=tuple(block.norm1.classes(self._labels(y)) for block in self.blocks),
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
            y: Classes, see :meth:`prepare`; or give ``context``.
            x_mask: None: this model keeps no given frames.
            context: What :meth:`prepare` returned, to compute it once for many steps.
            run: The seam.
            **options: See :meth:`prepare`.

        Returns:
            float32 [B, out_channels, 1, H', W'].

        Raises:
            ValueError: Inputs do not fit together.
        """
        check_steps(x, timestep, x_mask, name="DiT")
        if context is None:
            if y is None:
                raise ValueError("DiT needs y, or a context made by prepare()")
            context = self.prepare(y, latent_size=x.shape[2:], **options)
        tokens = self.pos_embed(x)
        tokens = (tokens + context.places).to(tokens.dtype)
        pairs = zip(self.blocks, context.told, strict=True)
        made = [block.norm1(timestep, classes) for block, classes in pairs]
        final = self.proj_out_1(F.silu(made[0][1])).unflatten(-1, (2, -1))[:, None, None]
        cond = Conditioning(context, modulation=tuple(table[:, None, None] for table, _ in made), final=final)
        out = run(BODY, Body(self.blocks, self.proj_out_2), tokens, cond)
        return unpatchify(out, self.token_grid(x.shape[2:])[1:], self.config.patch_size)

    def _labels(self, y: Tensor) -> Tensor:
        """Classes int64 [B]."""
        labels, most = y.flatten().long(), self.config.num_embeds_ada_norm
        if len(labels) != len(y) or bool(((labels < 0) | (labels > most) | (labels != y.flatten())).any()):
            raise ValueError(f"classes must be [B, 1, 1, 1] of 0 to {most}, got {y.flatten().tolist()}")
        return labels
