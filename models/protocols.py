"""What a generation asks of its networks. A transformer or a VAE that answers to this needs no change elsewhere.

Shape legend: B batch, R rows of a shared input (R divides B), L text tokens, T latent frames, F frames, H, W pixels, Z
latent channels, t, h, w latent sizes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from videoaccel.models.seam import Run, Site

Each = Callable[[Sequence[Callable[[], Tensor]]], list[Tensor]]
"""Does independent pieces of work and returns their results, in order: here, or dealt out to ranks."""

StepNoise = Callable[[int], list[torch.Generator]]
"""Generators of a step, one a row, by its number: the same whenever they are asked for."""


def here(pieces: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Do all pieces one after the other."""
    return [piece() for piece in pieces]


class Context(Protocol):
    """What stays the same through a generation, made by :meth:`Transformer.prepare`."""

    def rows(self, index: Sequence[int] | Tensor) -> "Context":
        """Return the context of some batch rows, in the order of ``index``."""
        ...


class Transformer(Protocol):
    """Predicts what the schedule moves a latent by: a velocity, the noise."""

    reads_classes: ClassVar[bool]
    """Whether its prompts are classes, whose numbers [L = 1, width = 1] are its text states, the last one for none."""

    keeps_frames: ClassVar[bool]
    """Whether it can be given frames to keep (``x_mask``): images, clips to go on from, later loops."""

    learns_null_text: ClassVar[bool]
    """Whether it has text states that stand for no text; if not, those of the empty prompt do."""

    null_text_is_padded: ClassVar[bool]
    """Where the empty prompt stands for no text: as many of its states are read as the prompt has tokens, padding."""

    @classmethod
    def tokens_read(cls, config: Mapping[str, Any]) -> int:
        """Tokens of a prompt that a network with this configuration reads."""
        ...

    @classmethod
    def classes_read(cls, config: Mapping[str, Any]) -> int:
        """Number of classes of a network with this configuration; 0 of one that reads texts."""
        ...

    @property
    def text_width(self) -> int:
        """Width of the text states that it reads."""
        ...

    @property
    def null_text(self) -> Tensor | None:
        """Learned text states [L, width] that stand for no text; None if there are none."""
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
    def width(self) -> int:
        """Channels of the residual stream."""
        ...

    @property
    def sites(self) -> Mapping[Site, tuple[Site, ...]]:
        """Where the blocks stand, in the order in which they run, each with its modules."""
        ...

    @property
    def patch(self) -> tuple[int, int]:
        """Latent rows and columns to a place."""
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


class Autoencoder(Protocol):
    """Encodes clips to latents and back."""

    @property
    def space_factor(self) -> int:
        """Pixels to a latent row or column."""
        ...

    @property
    def chunk_frames(self) -> int | None:
        """Frames to a chunk; None if a clip is one."""
        ...

    @property
    def latent_channels(self) -> int:
        """Z."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    def latent_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip of F, H, W."""
        ...

    def encode(
        self, x: Tensor, *, noise: Callable[[torch.Size, torch.dtype], Tensor] | None = None, each: Each = here
    ) -> Tensor:
        """Clips [B, 3, F, H, W] in [-1, 1] -> latents [B, Z, t, h, w] of spread 1; ``noise`` samples the posterior.

        ``each`` does pieces of the work that do not hang on each other.
        """
        ...

    def enable_tiling(self, *, tile_size: int = 512) -> None:
        """Work on overlapping tiles of this many pixels."""
        ...

    def chunks(self, z: Tensor, num_frames: int) -> list[tuple[Tensor, int]]:
        """Cut a latent into chunks that are decoded one after the other, each with its number of frames."""
        ...

    def decode_chunks(self, z: Tensor, num_frames: int) -> Iterator[Tensor]:
        """Decode chunk by chunk, not clamped: [B, 3, frames of the chunk, H, W] each."""
        ...

    def decode_piece(self, z: Tensor, num_frames: int, start: int, stop: int) -> Tensor:
        """Decode frames ``start`` to ``stop - 1`` of one chunk of ``num_frames``: [B, 3, stop - start, H, W]."""
        ...


class Schedule(Protocol):
    """Timesteps, and what to do with the transformer's prediction at each.

    Attributes:
        timesteps: [N, 1 or B], falling.
        sigmas: Noise levels before each step and after the last, [1 or B, N+1] in [0, 1].
    """

    timesteps: Tensor
    sigmas: Tensor

    @property
    def keeps_variance(self) -> bool:
        """Whether the squares of signal and noise add up to one; of a rectified flow they do themselves."""
        ...

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: torch.device,
        *,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
    ) -> None:
        """Fill in the attributes for a clip of this size."""
        ...

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What each of the present steps does: (step, latent [B, Z, t, h, w], prediction) -> the next latent.

        Setting other timesteps does not change it. A run may start anew from any latent that a step has given: the
        same latent, as the same tensor, and prediction give the same result.

        Args:
            noise: Where a step draws from, if it does.
        """
        ...
