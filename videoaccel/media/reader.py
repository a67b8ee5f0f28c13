"""Pictures and clips from files, fitted to a size, and back to 8 bits. Writing is in `videoaccel.media.writer`.

Shape legend: T frames, H height, W width in pixels. On disk and in between, a clip is ``Frames``: uint8 [T, H, W, 3],
RGB. For the networks it is a float32 tensor [3, T, H, W] in [-1, 1].

Source of the rules of `fit` and `to_uint8`: Open-Sora v1.2, `datasets/utils.py` and `datasets/video_transforms.py`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from videoaccel.common.picture_names import IMAGE_SUFFIXES, is_image
from videoaccel.common.reading import Colour
from videoaccel.media.colour import WHITE
from videoaccel.media.encoders import Frames
from videoaccel.media.films import FOLDER_FPS, Film, open_film
from videoaccel.media.limits import check_pixels, holding
from videoaccel.media.pictures import (
    existing_file,
    picture_format,
    read_image,
    read_pictures,
)

__all__ = [
    "FOLDER_FPS", "IMAGE_SUFFIXES", "fit", "is_image", "open_clip", "read_image", "read_video", "taken", "to_uint8",
]  # fmt: skip

Taken = TypeVar("Taken")


@contextmanager
def open_clip(path: str | Path, *, ground: Colour = WHITE) -> Iterator[Film]:
    """Open a film, a moving picture, or a folder of frames in the order of the numbers in their names.

    Frames come upright, in sRGB, one by one, so that nobody need hold more of a long film than he wants.

    Args:
        path: A file that FFmpeg or Pillow reads, or a folder of pictures of one size.
        ground: What shows where it is transparent.

    Raises:
        FileNotFoundError: There is no such file or folder.
        PermissionError: This user may not read it.
        ValueError: It holds no video, is damaged or cut short, or the pictures differ in size; also while frames are
            taken.
    """
    if Path(path).is_dir():
        yield Film(_folder_frames(Path(path), ground), FOLDER_FPS)
        return
    path = existing_file(path)
    if picture_format(path) is not None:
        yield _moving_picture(path, ground)
        return
    with open_film(path, ground=ground) as film:
        yield film


def read_video(
    path: str | Path, *, max_frames: int | None = None, last: int | None = None, ground: Colour = WHITE
) -> tuple[Frames, float]:
    """Read a clip, or a folder of frames.

    Args:
        path: As for `open_clip`.
        max_frames: Stop after this many, so that a long film costs no more memory than its beginning.
        last: Keep this many of the frames read, the last ones; a long film then costs no more memory than its end.
        ground: What shows where it is transparent.

    Returns:
        The frames [T, H, W, 3], upright and in sRGB, and frames per second.

    Raises:
        FileNotFoundError: There is no such file or folder.
        PermissionError: This user may not read it.
        ValueError: As `open_clip`, or max_frames or last is below 1.
    """
    with open_clip(path, ground=ground) as clip:
        frames = holding(islice(clip.frames, max_frames), Path(path), last=last)
        return np.stack(taken(frames, max_frames=max_frames, last=last)), clip.fps


def taken(frames: Iterable[Taken], *, max_frames: int | None = None, last: int | None = None) -> list[Taken]:
    """The first ``max_frames`` of what comes, and of these the ``last``; None is all.

    Raises:
        ValueError: One of them is below 1.

    >>> taken(range(9), max_frames=5, last=2)
    [3, 4]
    """
    for name, count in (("max_frames", max_frames), ("last", last)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}")
    return list(deque(islice(frames, max_frames), maxlen=last))


def fit(frames: Frames, height: int, width: int, *, still: bool) -> Tensor:
    """Resize frames until they cover a size, cut the middle out, and scale to the networks' range.

    Args:
        frames: uint8 [T, h, w, 3].
        height: H in pixels.
        width: W in pixels.
        still: Pictures are resized by Pillow (bicubic, with antialias, in 8 bits) and clips by torch (bilinear,
            without); the two also round the middle differently. The networks were trained on both as they are.

    Returns:
        float32 [3, T, H, W] in [-1, 1].

    Raises:
        ValueError: The frames are not uint8 [T, h, w, 3], the size is not positive, or they are so narrow a strip that
            it would become endless.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [T, H, W, 3] and not empty; got {frames.dtype} {list(frames.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1; got {height}x{width}")
    size, (top, left) = _cover(frames.shape[1], frames.shape[2], height, width, still)
    strip = f"{frames.shape[1]:,}x{frames.shape[2]:,} pixels, made large enough to cover {height}x{width}, would have"
    check_pixels(*size, name=strip)
    resize = _resize_still if still else _resize_moving
    # Frame by frame: a clip is never in memory as floats at its old size.
    fitted = [resize(frame, size)[:, top : top + height, left : left + width] for frame in frames]
    return torch.stack(fitted, dim=1).sub_(0.5).div_(0.5)


def to_uint8(x: Tensor) -> Frames:
    """Turn a clip in [-1, 1] into bytes: clip, scale to 0..255, add a half, truncate.

    Args:
        x: [3, T, H, W], or a batch [..., 3, T, H, W], of any floating type, on any device.

    Returns:
        Frames uint8 [T, H, W, 3], or [..., T, H, W, 3].

    Raises:
        ValueError: It has another shape, or some values are not numbers.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    if x.dim() < 4 or x.shape[-4] != 3:
        raise ValueError(f"a clip must be [3, T, H, W] or [..., 3, T, H, W]; got {list(x.shape)}")
    if bad := int(torch.isnan(x).sum()):
        raise ValueError(f"{bad} of the clip's {x.numel()} values are NaN; there is nothing sensible to write")
    # In float32 whatever x is: bfloat16 has no 256 steps between 0 and 255.
    scaled = x.float().clamp(-1, 1).add_(1).div_(2).mul_(255).add_(0.5).to(torch.uint8)
    frames: Frames = scaled.movedim(-4, -1).contiguous().cpu().numpy()
    return frames


def _moving_picture(path: Path, ground: Colour) -> Film:
    """A film of the frames of a WebP, PNG or AVIF; most have one."""
    stays: list[float] = []

    def timed() -> Iterator[Frames]:
        for frame, stay in read_pictures(path, ground=ground):
            stays.append(stay)
            yield frame

    shown = list(holding(timed(), path))
    seconds = sum(stays)
    return Film(iter(shown), len(shown) / seconds if seconds else FOLDER_FPS, still=len(shown) == 1)


def _folder_frames(folder: Path, ground: Colour) -> Iterator[Frames]:
    names = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    if not names:
        raise ValueError(f"the folder {folder} has no pictures; they end in {', '.join(IMAGE_SUFFIXES)}")
    names.sort(key=lambda path: [(text, int(part or 0)) for text, part in re.findall(r"(\D*)(\d*)", path.name)])
    first: tuple[int, ...] | None = None
    for path in names:
        frame = read_image(path, ground=ground)[0]
        first = first or frame.shape
        if frame.shape != first:
            (height, width), (first_height, first_width) = frame.shape[:2], first[:2]
            raise ValueError(f"{path} is {height}x{width}, the frames before it {first_height}x{first_width}")
        yield frame


def _cover(h: int, w: int, height: int, width: int, still: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to resize h x w to, and the top left corner of the middle there."""
    by_height, by_width = height / h, width / w
    size = (height, round(w * by_height)) if by_height > by_width else (round(h * by_width), width)
    extra = size[0] - height, size[1] - width
    # Python rounds halves to even, so 3 pixels too many start at 2 in a picture and at 1 in a clip.
    top, left = (round(pixels / 2) if still else pixels // 2 for pixels in extra)
    return size, (top, left)


def _resize_still(frame: Frames, size: tuple[int, int]) -> Tensor:
    image = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def _resize_moving(frame: Frames, size: tuple[int, int]) -> Tensor:
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1).float().div_(255)
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=False)[0]
