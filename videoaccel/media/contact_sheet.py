"""A clip at a glance: evenly spaced frames side by side, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videoaccel.media.encoders import Frames

_GAP = 2  # pixels between frames
_GROUND = (24, 24, 24)
_LINES = 24  # a number takes about this fraction of a frame's height


def evenly_spaced(total: int, limit: int) -> list[int]:
    """Choose at most ``limit`` of ``total`` frames, first and last among them (only the first if the limit is 1).

    >>> evenly_spaced(51, 4), evenly_spaced(3, 8)
    ([0, 17, 33, 50], [0, 1, 2])
    """
    return [int(number) for number in np.linspace(0, total - 1, min(total, limit)).round()]


def contact_sheet(
    frames: Frames, *, columns: int = 4, rows: int = 4, scale: float = 1.0, numbers: Sequence[int] | None = None
) -> Image.Image:
    """Lay evenly spaced frames out, left to right and top to bottom.

    Args:
        frames: uint8 [T, H, W, 3].
        columns: Frames to a row.
        rows: At most so many rows; a short clip has fewer.
        scale: Size of a frame on the sheet, 1 as it is.
        numbers: The frames are the chosen ones already (by `evenly_spaced`, while the clip was written), and these are
            their numbers in it.

    Raises:
        ValueError: There are no frames, columns or rows is below 1, scale not above 0, or numbers are not one a frame.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [T, H, W, 3] and not empty; got {frames.dtype} {list(frames.shape)}")
    if columns < 1 or rows < 1 or scale <= 0:
        raise ValueError(f"columns and rows must be at least 1 and scale above 0; got {columns}, {rows} and {scale}")
    if numbers is not None and not 1 <= len(numbers) == len(frames) <= columns * rows:
        raise ValueError(f"{len(numbers)} numbers for {len(frames)} frames on a sheet of {columns}x{rows}")
    chosen = evenly_spaced(len(frames), columns * rows)
    labels = chosen if numbers is None else numbers
    height, width = (max(1, round(pixels * scale)) for pixels in frames.shape[1:3])
    columns = min(columns, len(chosen))
    lines = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, lines * (height + _GAP) - _GAP), _GROUND)
    for place, (index, label) in enumerate(zip(chosen, labels, strict=True)):
        line, column = divmod(place, columns)
        tile = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.LANCZOS)
        _number(tile, label)
        sheet.paste(tile, (column * (width + _GAP), line * (height + _GAP)))
    return sheet


def _number(tile: Image.Image, label: int) -> None:
    """Write a number in the top left corner, white on black: readable on anything."""
    font = ImageFont.load_default()
    left, top, right, bottom = (round(edge) for edge in font.getbbox(str(label)))
    text = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(text).text((2 - left, 2 - top), str(label), fill=255, font=font)
    # The built-in font has one size; whole multiples keep it sharp.
    zoom = max(1, tile.height // _LINES // text.height)
    tile.paste(text.resize((text.width * zoom, text.height * zoom), Image.Resampling.NEAREST).convert("RGB"))
