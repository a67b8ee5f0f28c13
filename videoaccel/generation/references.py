"""Reference frames: from what a user gives (images, a clip, an edit) to latents and a mask strategy.

Shape legend: T frames, H, W pixels, Z latent channels, t, h, w latent sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.home import expand
from videoaccel.common.reading import parse_colour
from videoaccel.common.wording import counted
from videoaccel.media.encoders import Frames
from videoaccel.media.limits import holding
from videoaccel.media.reader import fit, is_image, open_clip, read_image, taken
from videoaccel.models.protocols import Autoencoder, Each, here
from videoaccel.models.video_vae import Noise
from videoaccel.settings.latent_frames import frames_of
from videoaccel.settings.mask_strategy import Group, format_mask_strategy
from videoaccel.text.prompts import cut_options


@dataclass(frozen=True)
class References:
    """What one prompt is conditioned on.

    Attributes:
        clips: Reference pictures and clips in [-1, 1], [3, T, H, W] each, at the size of the video.
        strategy: How they are used, see :mod:`videoaccel.sampling.conditioning`.

    Raises:
        ValueError: A clip is something else, such as a path or a picture in whole numbers.
    """

    clips: tuple[Tensor, ...] = ()
    strategy: str = ""

    def __post_init__(self) -> None:
        for clip in self.clips:
            if not (isinstance(clip, Tensor) and clip.is_floating_point() and clip.dim() == 4 and len(clip) == 3):
                raise ValueError(
                    f"a reference must be a float tensor [3, T, H, W] in [-1, 1], got {_shown(clip)}; "
                    f"read_clip makes one of a file"
                )

    def check_size(self, *, height: int, width: int, space_factor: int) -> None:
        """Make sure that the clips have the size of the video.

        Args:
            height: Of the video, in pixels.
            width: Of the video, in pixels.
            space_factor: Pixels to a latent place; sizes that differ by less than one place will do.

        Raises:
            ValueError: A clip is of another size.
        """
        for clip in self.clips:
            high, wide = clip.shape[2:]
            if (high // space_factor, wide // space_factor) != (height // space_factor, width // space_factor):
                raise ValueError(
                    f"a reference is {high}x{wide} pixels (height x width), the video {height}x{width}; "
                    f"read_clip(path, height={height}, width={width}) resizes and crops it"
                )

    def encode(self, vae: Autoencoder, noise: Noise, *, each: Each = here, whole: bool = False) -> list[Tensor]:
        """Latents [Z, t, h, w] of the clips, each a sample of its posterior.

        Args:
            vae: The video VAE.
            noise: Source of the samples.
            each: Does pieces of the work.
            whole: Encode what is shorter than a chunk as if its last frame stood still to the end of the chunk, and
                leave the latents of that out. A VAE decodes whole chunks; of a single frame it makes a latent that,
                with others behind it, comes out as another picture.
        """
        return [self._encode(clip[None].to(vae.device, vae.dtype), vae, noise, each, whole) for clip in self.clips]

    @staticmethod
    def _encode(clip: Tensor, vae: Autoencoder, noise: Noise, each: Each, whole: bool) -> Tensor:
        wanted = vae.latent_size(clip.shape[2:])[0]
        if whole and vae.chunk_frames is not None:
            still = clip[:, :, -1:].expand(-1, -1, -clip.shape[2] % vae.chunk_frames, -1, -1)
            clip = torch.cat((clip, still), dim=2)
        return vae.encode(clip, noise=noise, each=each)[0, :, :wanted].float()


def read_references(
    paths: str | Sequence[str | Path], strategy: str, *, height: int, width: int, ground: str = "white"
) -> References:
    """References from image and video files; of a text, paths joined by ``;`` as the release writes them.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file cannot be read.
    """
    names = [path for path in paths.split(";") if path] if isinstance(paths, str) else list(paths)
    size: dict[str, Any] = {"height": height, "width": width, "ground": ground}
    return References(tuple(read_clip(name, **size) for name in names), strategy)


def read_clip(
    path: str | Path,
    *,
    height: int,
    width: int,
    max_frames: int | None = None,
    last: int | None = None,
    ground: str = "white",
) -> Tensor:
    """An image or video file as [3, T, H, W] in [-1, 1], upright, in sRGB, resized to cover and cropped.

    Each frame is resized as it is read: of a long film no more than what is returned is ever in memory.

    Args:
        path: The file, or a folder of frames.
        height: H in pixels.
        width: W in pixels.
        max_frames: Stop after this many.
        last: Keep this many of them, the last ones.
        ground: Colour below what is transparent, by its name or as #rrggbb.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It cannot be read, or a size, ``max_frames`` or ``last`` is below 1.
    """
    colour, path = parse_colour(ground), expand(path)
    if is_image(path):
        return _fit(read_image(path, ground=colour), height, width, still=True, path=path)
    with open_clip(path, ground=colour) as clip:
        fitted = (_fit(frame[None], height, width, still=clip.still, path=path) for frame in clip.frames)
        held = holding(islice(fitted, max_frames), path, last=last)
        return torch.cat(taken(held, max_frames=max_frames, last=last), dim=1)


def _fit(frames: Frames, height: int, width: int, *, still: bool, path: Path) -> Tensor:
    try:
        return fit(frames, height, width, still=still)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def references_of_prompts(
    given: References | Sequence[References] | None, prompts: Sequence[str], *, count: int, height: int, width: int
) -> list[References]:
    """What each of ``count`` prompts is conditioned on: as given, else as the JSON at a prompt's end says.

    Raises:
        ValueError: Something else was given than references, or not one for each prompt; or as `read_references` says.
    """
    if isinstance(given, References):
        return [given] * count
    if given is None:
        options = [cut_options(prompt) for prompt in prompts] or [cut_options("")] * count
        return [read_references(o.reference_path, o.mask_strategy, height=height, width=width) for o in options]
    several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if wrong := [other for other in several if not isinstance(other, References)]:
        raise ValueError(
            f"references must be a References or a list with one for each prompt, got {_shown(wrong[0])}; "
            f"first_frame(read_clip(path, height={height}, width={width})) makes one of a picture"
        )
    if len(several) != count:
        raise ValueError(
            f"{counted(len(several), 'reference')} for {counted(count, 'prompt')}; give one, or one for each"
        )
    return several


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
    needed = frames_before(latents, align=align)
    if align is None:
        head = clip[:, :needed]
        clip = torch.cat((head[:, :1].expand(-1, -head.shape[1] % chunk, -1, -1), head), dim=1)
        group = Group(0, 0, -latents, -latents, latents)
    else:
        clip, head = clip[:, :needed], clip[:, :needed]
        group = Group(0, 0, 0, -latents, latents)
    if head.shape[1] < needed:
        raise ValueError(f"the video has {counted(head.shape[1], 'frame')}; leading up to it takes at least {needed}")
    return References((clip,), format_mask_strategy([group]))


def frames_before(latents: int, *, align: int | None) -> int:
    """Frames of a clip that leading up to it takes: each of the last latents of a video stands for four.

    >>> frames_before(5, align=None), frames_before(5, align=5)
    (20, 17)
    """
    return 4 * latents if align is None else frames_of(latents)


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


def _shown(value: Any) -> str:
    """What a message says of a value: arrays of any kind are too long to print."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"{type(value).__name__} {getattr(value, 'dtype', '')} {list(shape)}"
