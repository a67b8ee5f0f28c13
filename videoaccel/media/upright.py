"""Frames as they are meant to be looked at: turned, mirrored and with square pixels.

Shape legend: H height, W width in pixels; a frame is uint8 [H, W, 3].
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from videoaccel.media.encoders import Frames

_PLAUSIBLE = (Fraction(1, 8), Fraction(8))


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Where a decoded frame (``av.VideoFrame``) is shown, at column a x + c y, row b x + d y: (a, b, c, d)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    return (a, b, c, d)


def upright(
    frame: Frames, *, aspect: Fraction = Fraction(1), matrix: tuple[int, int, int, int] = (1, 0, 0, 1)
) -> Frames:
    """Make pixels square, then turn and mirror.

    Args:
        frame: As it is stored.
        aspect: Width of a pixel by its height; one side of the frame grows, none shrinks.
        matrix: As `display_matrix` gives it; angles between quarters become the nearest.
    """
    frame = _square(frame, aspect)
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        frame, left, up = frame.swapaxes(0, 1), c < 0, b < 0
    else:
        left, up = a < 0, d < 0
    return np.ascontiguousarray(frame[:: -1 if up else 1, :: -1 if left else 1])


def _square(frame: Frames, aspect: Fraction) -> Frames:
    height, width = frame.shape[:2]
    if not _PLAUSIBLE[0] <= aspect <= _PLAUSIBLE[1]:
        return frame
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if size == (width, height):
        return frame
    return np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
