"""Reference frames: from what a user gives (images, a clip, an edit) to latents and a mask strategy.

Shape legend: T frames, H, W pixels, Z latent channels, t, h, w latent sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videoaccel.conditioning import Group, format_mask_strategy
from videoaccel.media import fit, is_image, read_image, read_video
from videoaccel.models.protocols import Autoencoder
from videoaccel.models.video_vae import Noise
from videoaccel.wording import counted


@dataclass(frozen=True)
class References:
    """What one prompt is conditioned on.

    Attributes:
        clips: Reference pictures and clips in [-1, 1], [3, T, H, W] each, at the size of the video.
        strategy: How they are used, see :mod:`videoaccel.conditioning`.
    """

    clips: tuple[Tensor, ...] = ()
    strategy: str = ""

    def encode(self, vae: Autoencoder, noise: Noise) -> list[Tensor]:
        """Latents [Z, t, h, w] of the clips, each a sample of its posterior."""
        return [vae.encode(clip[None].to(vae.device, vae.dtype), noise=noise)[0].float() for clip in self.clips]


def read_references(paths: str | Sequence[str | Path], strategy: str, *, height: int, width: int) -> References:
    """References from image and video files; of a text, paths joined by ``;`` as the release writes them.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file cannot be read.
    """
    names = [path for path in paths.split(";") if path] if isinstance(paths, str) else list(paths)
    return References(tuple(read_clip(name, height=height, width=width) for name in names), strategy)


def read_clip(path: str | Path, *, height: int, width: int) -> Tensor:
    """An image or video file as [3, T, H, W] in [-1, 1], resized to cover and cropped; errors as above."""
    still = is_image(path)
    frames = read_image(path) if still else read_video(path)[0]
    return fit(frames, height, width, still=still)


def first_frame(image: Tensor) -> References:
    """Start with an image [3, 1, H, W]."""
    return References((image,), format_mask_strategy([Group(0)]))


def first_and_last_frame(first: Tensor, last: Tensor, *, align: int | None, chunk: int) -> References:
    """Start with one image and end with another, [3, 1, H, W] each.

    With ``align`` (the release) the last image stands at the start of the last whole chunk of latents. Without, it is
    the very last latent: that one stands for several frames, so the image is encoded as a still clip of ``chunk``
    frames, of which the last latent is taken.
    """
    if align is None:
        last = last.expand(-1, chunk, -1, -1)
    groups = [Group(0), Group(0, 1, 0 if align else -1, -1, 1)]
    return References((first, last), format_mask_strategy(groups))


def continue_clip(clip: Tensor, *, latents: int) -> References:
    """Go on after a clip [3, T, H, W]: its last ``latents`` latent frames are the beginning.

    Raises:
        ValueError: The clip is too short.
    """
    tail = frames_of(latents)
    if clip.shape[1] < tail:
        raise ValueError(f"the video has {counted(clip.shape[1], 'frame')}; continuing it takes at least {tail}")
    return References((clip[:, -tail:],), format_mask_strategy([Group(0, 0, 0, 0, latents)]))


def lead_to_clip(clip: Tensor, *, latents: int, align: int | None, chunk: int) -> References:
    """Make what comes before a clip [3, T, H, W]: its first ``latents`` latent frames are the end.

    Without ``align`` the clip's first frames are put at the end of a chunk, its first frame repeated before them, so
    that their latents stand for as many frames as the last latents of a video do.

    Raises:
        ValueError: The clip is too short.
    """
    if align is None:
        head = clip[:, : 4 * latents]
        needed = 4 * latents
        clip = torch.cat((head[:, :1].expand(-1, max(chunk - head.shape[1], 0), -1, -1), head), dim=1)
        group = Group(0, 0, -latents, -latents, latents)
    else:
        needed = frames_of(latents)
        clip, head = clip[:, :needed], clip[:, :needed]
        group = Group(0, 0, 0, -latents, latents)
    if head.shape[1] < needed:
        raise ValueError(f"the video has {counted(head.shape[1], 'frame')}; leading up to it takes at least {needed}")
    return References((clip,), format_mask_strategy([group]))


def edit_clip(clip: Tensor, *, frames: int, edit: float) -> References:
    """Keep a clip's content and let it change once the timestep is below ``edit`` of the whole way.

    Args:
        clip: [3, T, H, W].
        frames: Frames of the video to make.
        edit: 0 keeps the clip, 1 ignores it.

    Raises:
        ValueError: ``edit`` is not in [0, 1].
    """
    if not 0 <= edit <= 1:
        raise ValueError(f"edit must be between 0 (keep the video) and 1 (ignore it), got {edit}")
    clip = clip[:, :frames]
    return References((clip,), format_mask_strategy([Group(0, 0, 0, 0, clip.shape[1], edit)]))


def frames_of(latents: int) -> int:
    """Frames that the first ``latents`` latent frames of a clip stand for: 17 to 5, the first of each 5 for one frame.

    >>> [frames_of(latents) for latents in (1, 2, 5, 6, 10)]
    [1, 5, 17, 18, 34]
    """
    whole, rest = divmod(latents, 5)
    return 17 * whole + (4 * rest - 3 if rest else 0)


def with_tail(
    references: Sequence[References], tails: Sequence[Tensor], *, loop: int, latents: int, edit: float
) -> list[References]:
    """Add the end of the previous loop's clip to every sample's references, as the beginning of loop ``loop``."""
    grown = []
    for known, tail in zip(references, tails, strict=True):
        group = format_mask_strategy([Group(loop, len(known.clips), 0, 0, latents, edit)])
        strategy = f"{known.strategy};{group}" if known.strategy else group
        grown.append(References((*known.clips, tail), strategy))
    return grown
