"""Which frames VBench's networks are shown, and how pictures are resized, cropped and padded for them.

Every rule here is VBench's, whose scores depend on it: torch's interpolation without antialiasing for tensors, Pillow's
with it for pictures, and rounding where frames stay in bytes.

Shape legend: T frames, H, W pixels; frames are uint8 [T, H, W, 3], networks get float32 [T, 3, h, w].
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


MOST_SIDES = 64
"""How many times the longer side of a picture may be the shorter one."""


def middle_indices(count: int, total: int) -> list[int]:
    """The middles of ``count`` equal stretches of a clip of ``total`` frames; a shorter clip repeats its last frame.

    >>> middle_indices(8, 51), middle_indices(8, 5)
    ([2, 8, 15, 21, 27, 34, 40, 47], [0, 1, 2, 3, 4, 4, 4, 4])
    """
    taken = min(count, total)
    edges = np.linspace(0, total, taken + 1).astype(int).tolist()
    indices = [(start + end - 1) // 2 for start, end in pairwise(edges)]
    return indices + [indices[-1]] * (count - taken)


def frame_interval(fps: float) -> int:
    """Every how many frames dynamic degree looks: about 8 a second; halves round to even.

    >>> [frame_interval(fps) for fps in (6, 12, 20, 23.976, 30)]
    [1, 2, 2, 3, 4]
    """
    return max(1, round(fps / 8))


def pad_margins(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom pixels that make a picture a multiple; the odd one goes right and down.

    >>> pad_margins(142, 252, 8)
    (2, 2, 1, 1)
    """
    wide, high = -width % multiple, -height % multiple
    return wide // 2, wide - wide // 2, high // 2, high - high // 2


def pad(pictures: Tensor, multiple: int) -> Tensor:
    """Repeat the border of float pictures [T, 3, H, W] until both sides are multiples."""
    return F.pad(pictures, pad_margins(pictures.shape[-2], pictures.shape[-1], multiple), mode="replicate")


def short_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the shorter one at ``side``; the longer one is cut to whole pixels, not rounded.

    Raises:
        ValueError: They are a strip, whose longer side would have no end.
    """
    if max(height, width) > MOST_SIDES * min(height, width):
        raise ValueError(f"{height}x{width} pixels are a strip; a side may be {MOST_SIDES} times the other at most")
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def center_crop(pictures: Tensor, side: int) -> Tensor:
    """The middle of pictures [..., H, W]; halves round to even."""
    top, left = (round((pictures.shape[axis] - side) / 2.0) for axis in (-2, -1))
    return pictures[..., top : top + side, left : left + side]


def clip_pictures(frames: Tensor, *, side: int = 224) -> Tensor:
    """For CLIP in background consistency and aesthetic quality: resized as floats, which may leave 0 to 255."""
    pictures = _floats(frames)
    wide = _resize(pictures, short_side_size(pictures.shape[-2], pictures.shape[-1], side), "bicubic")
    return _normalised(center_crop(wide, side).div(255), CLIP_MEAN, CLIP_STD)


def clip_byte_pictures(frames: Tensor, *, side: int = 224) -> Tensor:
    """For ViCLIP: resized, then rounded back to bytes, as torchvision does for them."""
    pictures = _floats(frames)
    wide = _resize(pictures, short_side_size(pictures.shape[-2], pictures.shape[-1], side), "bicubic")
    return _normalised(center_crop(wide.clamp(0, 255).round(), side).div(255), CLIP_MEAN, CLIP_STD)


def clip_pil_pictures(frames: Tensor, *, side: int = 224) -> Tensor:
    """For CLIP in appearance style: resized by Pillow, which looks at all pixels."""
    height, width = short_side_size(frames.shape[1], frames.shape[2], side)
    images = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames.numpy())
    pictures = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    return _normalised(center_crop(_floats(pictures), side).div(255), CLIP_MEAN, CLIP_STD)


def dino_pictures(frames: Tensor, *, side: int = 224) -> Tensor:
    """For DINO: the shorter side resized, nothing cropped."""
    pictures = _floats(frames)
    wide = _resize(pictures, short_side_size(pictures.shape[-2], pictures.shape[-1], side), "bilinear")
    return _normalised(wide.div(255), IMAGENET_MEAN, IMAGENET_STD)


def _floats(frames: Tensor) -> Tensor:
    return frames.movedim(-1, 1).float()


def _resize(pictures: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size=size, mode=mode, align_corners=False, antialias=False)


def _normalised(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (pictures - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
