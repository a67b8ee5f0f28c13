"""What a generation asks of its networks. A transformer or a VAE that answers to this needs no change elsewhere.

Shape legend: B batch, R rows of a shared input (R divides B), L text tokens, T latent frames, F frames, H, W pixels, Z
latent channels, t, h, w latent sizes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from videoaccel.models.seam import Run, Site


class Context(Protocol):
    """What stays the same through a generation, made by :meth:`Transformer.prepare`."""

    def rows(self, index: Sequence[int] | Tensor) -> "Context":
        """Return the context of some batch rows, in the order of ``index``."""
        ...


class Transformer(Protocol):
    """Predicts what the schedule moves a latent by: a velocity, the noise."""

    keeps_frames: ClassVar[bool]
    """Whether it can be given frames to keep (``x_mask``): images, clips to go on from, later loops."""

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """Tokens of a prompt that a network with this configuration reads."""
        ...

    @property
    def null_text(self) -> Tensor | None:
        """Text states [L, width] that stand for no text; None if the model takes those of the empty prompt."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration's fields."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        ...

    @property
    def sites(self) -> Mapping[Site, tuple[Site, ...]]:
        """Where the blocks stand, in the order in which they run, each with its modules."""
        ...

    def token_grid(self, latent_size: Sequence[int]) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens for a latent of t, h, w; ValueError for one that it cannot make."""
        ...

    def prepare(
        self,
        y: Tensor,
        *,
        mask: Tensor | None,
        fps: Tensor,
        height: Tensor | float,
        width: Tensor | float,
        latent_size: Sequence[int],
    ) -> Context:
        """Compute what does not depend on the latent.

        Args:
            y: Text states [B, 1, L, width].
            mask: [R, L], nonzero where a token counts.
            fps: Frames per second [r], r dividing B; a model may leave it and the size in pixels alone.
            height: Pixels.
            width: Pixels.
            latent_size: t, h, w.
        """
        ...

    def __call__(self, x: Tensor, timestep: Tensor, *, x_mask: Tensor | None, context: Any, run: Run) -> Tensor:
        """Predict from a latent [B, Z, t, h, w] at timesteps [B].

        Args:
            x: The latent.
            timestep: Of each row.
            x_mask: [B, T], True where a frame is being denoised; None if all are.
            context: What :meth:`prepare` returned for these rows.
            run: The seam.

        Returns:
            float32 [B, >= Z, t, h, w], of which sampling uses the first Z channels.
        """
        ...
