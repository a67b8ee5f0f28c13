"""STDiT3, the spatio-temporal transformer of Open-Sora v1.2: spatial and temporal blocks in turn.

Self-attention sees the places of one frame in a spatial block and the frames of one place in a temporal block. All
modules stand behind the seam (:mod:`videoaccel.models.seam`); this file knows nothing of caches or ranks. Parameter
names are those of the released checkpoints.

Shape legend: B batch, R rows of a shared input (R divides B), T latent frames, S = H*W places in a frame, C hidden
size, L text tokens, N heads, D = C / N. F is T where a conditioning differs from frame to frame, else 1.

Source: Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora, Apache-2.0); adaLN-single as in PixArt-alpha
(arXiv 2310.00426), DiT (arXiv 2212.09748), RoFormer (arXiv 2104.09864) for the temporal rotation.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from videoaccel.models.checkpoint import StrictLoading
from videoaccel.models.layers import (
    CaptionEmbedder,
    PlacePositions,
    Rotary,
    ScalarEmbedder,
    compact_text,
    repeat_rows,
)
from videoaccel.models.seam import BODY, Run, Site, direct
from videoaccel.models.stdit_blocks import AXES, Block, Body, Conditioning, FinalLayer, GenerationContext

RELEASED_LENGTH = 300


class STDiT3(StrictLoading, ModelMixin, ConfigMixin):
    """Predicts the velocity (data minus noise) of a noisy video latent under a text.

    In bfloat16 the timestep, frame rate and sizes are rounded to bfloat16 on entry, and the rotary angles are computed
    in it: that is what the released model does and was trained with. To keep full timesteps in a bfloat16 model, leave
    ``t_embedder``, ``fps_embedder`` and ``t_block`` in float32.

    Args:
        in_channels: Latent channels.
        patch_size: Latent frames, rows and columns to a token.
        hidden_size: C.
        depth: Number of PAIRS of a spatial and a temporal block.
        num_heads: N.
        mlp_ratio: Hidden size of the MLP over C.
        class_dropout_prob: Share of prompts replaced by ``y_embedding`` in training; unused here.
        pred_sigma: The output has twice the latent channels; the second half is ignored at sampling.
        caption_channels: Width of the text encoder.
        model_max_length: Rows of ``y_embedding``.
        input_sq_size: Side in pixels at which the place positions have scale 1.
        qk_norm: RMS norm on queries and keys.

    Raises:
        ValueError: ``hidden_size`` does not suit ``num_heads`` or the positions.
    """

    reads_classes = False
    keeps_frames = True
    learns_null_text = True
    null_text_is_padded = False
    ignored_fields = frozenset(
        {
            "input_size",
            "drop_path",
            "enable_flash_attn",
            "enable_layernorm_kernel",
            "enable_sequence_parallelism",
            "only_train_temporal",
            "freeze_y_embedder",
            "skip_y_embedder",
            "force_huggingface",
            "from_pretrained",
            "type",
        }
    )

    @register_to_config
    def __init__(
        self,
        *,
        in_channels: int = 4,
        patch_size: Sequence[int] = (1, 2, 2),
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        pred_sigma: bool = True,
        caption_channels: int = 4096,
        model_max_length: int = RELEASED_LENGTH,
        input_sq_size: int = 512,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads or (hidden_size // num_heads) % 2:
            raise ValueError(f"hidden_size {hidden_size} over num_heads {num_heads} must be a whole, even head size")
        self.patch_size = tuple(patch_size)
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        self.rope = Rotary(hidden_size // num_heads)
        self.pos_embed = PlacePositions(hidden_size)
        self.x_embedder = PatchEmbedding(in_channels, hidden_size, self.patch_size)
        self.t_embedder = ScalarEmbedder(hidden_size)
        self.fps_embedder = ScalarEmbedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedder(caption_channels, hidden_size, model_max_length)
        self.spatial_blocks, self.temporal_blocks = (
            nn.ModuleList(
                Block(hidden_size, num_heads, mlp_ratio=mlp_ratio, axis=axis, layer=layer, qk_norm=qk_norm)
                for layer in range(depth)
            )
            for axis in AXES
        )
        self.final_layer = FinalLayer(hidden_size, math.prod(self.patch_size) * self.out_channels)

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """Tokens of a prompt that a network with this configuration reads; the release's file does not say."""
        return int(config.get("model_max_length", RELEASED_LENGTH))

    @classmethod
    def classes_read(cls, config: Mapping[str, Any]) -> int:
        """It reads texts."""
        return 0

    @property
    def text_width(self) -> int:
        """Width of the text encoder."""
        return int(self.config.caption_channels)

    @property
    def null_text(self) -> Tensor:
        """Learned states of an empty prompt, [L, caption_channels]."""
        return self.y_embedder.y_embedding

    @property
    def blocks(self) -> list[Block]:
        """All blocks in the order in which they run."""
        pairs = zip(self.spatial_blocks, self.temporal_blocks, strict=True)
        return [block for pair in pairs for block in pair]  # type: ignore[misc]

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.config["hidden_size"]

    @property
    def sites(self) -> dict[Site, tuple[Site, ...]]:
        """Where the blocks stand, in the order in which they run, each with its modules."""
        return {block.site: block.sites for block in self.blocks}

    @property
    def patch(self) -> tuple[int, int]:
        """Latent rows and columns to a place."""
        _, rows, columns = self.patch_size
        return rows, columns

    def token_grid(self, latent_size: Sequence[int]) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens for a latent of T', H', W' (padded up to whole patches)."""
        t, h, w = (-(-size // patch) for size, patch in zip(latent_size, self.patch_size, strict=True))
        return t, h, w

    @apply_forward_hook
    def prepare(
        self,
        y: Tensor,
        *,
        mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | float,
        width: Tensor | float,
        latent_size: Sequence[int],
    ) -> GenerationContext:
        """Compute what stays the same through a generation: text, frame rate, positions.

        Args:
            y: Text states [B, 1, L, caption_channels].
            mask: [R, L], nonzero where a token counts, each row at least once; None counts all.
            fps: Frames per second [r], r dividing B.
            height: Height in pixels; of a tensor the first element counts.
            width: Width in pixels, likewise.
            latent_size: T', H', W' of the latent.

        Raises:
            ValueError: A row of ``mask`` is empty, or a row count does not divide the batch.
        """
        device, batch = y.device, y.shape[0]
        dtype = self.x_embedder.proj.weight.dtype
        text = self.y_embedder(y.to(dtype)).squeeze(1)
        text, text_mask = compact_text(text, None if mask is None else repeat_rows(mask, batch, "mask"))
        fps = torch.zeros(1, device=device) if fps is None else fps
        fps_embedding = self.fps_embedder(repeat_rows(fps, batch, "fps"))
        given = self.t_embedder(torch.zeros(batch, device=device)) + fps_embedding
        frames, rows, columns = self.token_grid(latent_size)
        cos, sin = self.rope(frames)
        side = math.sqrt(_first(height, dtype) * _first(width, dtype))
        return GenerationContext(
            keys_values=tuple(block.cross_attn.text_keys_values(text) for block in self.blocks),
            text_mask=text_mask,
            fps=fps_embedding,
            given=given,
            given_modulation=self.t_block(given),
            places=self.pos_embed(rows, columns, side / self.config.input_sq_size).to(dtype)[:, None],
            rotation=(cos.to(dtype), sin.to(dtype)),
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | float | None = None,
        width: Tensor | float | None = None,
        context: GenerationContext | None = None,
        run: Run = direct,
        **ignored: Any,
    ) -> Tensor:
        """Predict the velocity; with ``pred_sigma`` a second half of channels follows that sampling does not use.

        Args:
            x: Latent [B, in_channels, T', H', W'].
            timestep: [B], 1000 = noise, 0 = clean.
            y: Text states, with ``mask``, ``fps``, ``height`` and ``width`` as in :meth:`prepare`; or give ``context``.
            mask: See :meth:`prepare`.
            x_mask: [B, T], True where a frame is being denoised, False where it is given.
            fps: See :meth:`prepare`.
            height: See :meth:`prepare`.
            width: See :meth:`prepare`.
            context: What :meth:`prepare` returned, to compute it once for many steps.
            run: The seam.
            **ignored: ``num_frames`` and ``ar`` of the original's call.

        Returns:
            float32 [B, out_channels, T', H', W'].

        Raises:
            ValueError: Inputs do not fit together, or an unknown keyword is given.
        """
        if unknown := ignored.keys() - {"num_frames", "ar"}:
            raise ValueError(f"unknown argument {sorted(unknown)[0]!r} for STDiT3")
        if context is None:
            if y is None or height is None or width is None:
                raise ValueError("STDiT3 needs y, height and width, or a context made by prepare()")
            context = self.prepare(y, mask=mask, fps=fps, height=height, width=width, latent_size=x.shape[2:])
        latent_size = x.shape[2:]
        tokens = self.x_embedder(x) + context.places
        cond = self._condition(timestep, x_mask, context, tokens)
        body = Body(self.spatial_blocks, self.temporal_blocks, self.final_layer)  # type: ignore[arg-type]
        return self._unpatchify(run(BODY, body, tokens, cond), latent_size)

    def _condition(
        self, timestep: Tensor, x_mask: Tensor | None, context: GenerationContext, tokens: Tensor
    ) -> Conditioning:
        batch, frames = tokens.shape[:2]
        if timestep.shape != (batch,):
            raise ValueError(f"timestep must have shape [{batch}], got {list(timestep.shape)}")
        if x_mask is not None and x_mask.shape != (batch, frames):
            raise ValueError(f"x_mask must have shape [{batch}, {frames}], got {list(x_mask.shape)}")
        time = self.t_embedder(timestep) + context.fps
        modulation = self.t_block(time)[:, None]
        if x_mask is not None:
            modulation = torch.where(x_mask[..., None], modulation, context.given_modulation[:, None])
        return Conditioning(
            context=context,
            modulation=modulation.to(tokens.dtype).unflatten(-1, (6, -1)).unsqueeze(2),
            time=time.to(tokens.dtype)[:, None, None],
            given=context.given.to(tokens.dtype)[:, None, None],
            x_mask=None if x_mask is None else x_mask[..., None, None],
            rotation=context.rotation,
        )

    def _unpatchify(self, tokens: Tensor, latent_size: Sequence[int]) -> Tensor:
        """[B, T, S, patch values] -> [B, out_channels, T', H', W'] in float32, padding cut off."""
        grid, (pt, ph, pw) = self.token_grid(latent_size), self.patch_size
        x = tokens.unflatten(2, grid[1:]).unflatten(-1, (pt, ph, pw, self.out_channels))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)
        frames, rows, columns = latent_size
        return x[:, :, :frames, :rows, :columns].float()


class PatchEmbedding(nn.Module):
    """Cuts a latent into patches, one token each, after padding it with zeros to whole patches."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, T', H', W'] -> [B, T, S, C] in the parameters' type."""
        padding: list[int] = []
        for size, patch in zip(reversed(x.shape[2:]), reversed(self.patch_size), strict=True):
            padding += [0, -size % patch]
        x = self.proj(F.pad(x.to(self.proj.weight.dtype), padding))
        return x.flatten(3).permute(0, 2, 3, 1)


def _first(value: Tensor | float, dtype: torch.dtype) -> float:
    """The first element, rounded to the run's type as in the original, where sizes are tensors of that type."""
    return torch.as_tensor(value).flatten()[0].to(dtype).item()
