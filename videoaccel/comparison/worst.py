"""The clip that a setting makes worst, beside the exact one: a picture of a few frames, kept while a comparison runs.

Shape legend: T frames, H, W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videoaccel.common.files import atomic_write_bytes, told
from videoaccel.common.names import distinct_name
from videoaccel.comparison.log import WORST, Log
from videoaccel.media.contact_sheet import evenly_spaced
from videoaccel.media.encoders import Frames

FOLDER = WORST
FRAMES, WIDTH, GAP = 5, 128, 4
GAIN = 4
"""How many times the difference is enlarged."""


class Worst:
    """Keeps for each setting the picture of its worst clip.

    Args:
        folder: Of the comparison.
        log: What was measured before: a clip that is not worse leaves the picture as it is.
    """

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder = folder / FOLDER
        self.lowest: dict[tuple[str, str], float] = {}
        for row in log.of(kind="quality"):
            if "error" not in row:
                key = (row["method"], row["setting"])
                self.lowest[key] = min(float(row["psnr"]), self.lowest.get(key, float("inf")))

    def wants(self, row: Mapping[str, Any]) -> bool:
        """No clip that is measured is made again for a picture."""
        return False

    def __call__(self, row: Mapping[str, Any], frames: Frames, reference: Frames) -> None:
        """Look at a measurement.

        Args:
            row: As in the log.
            frames: The clip, uint8 [T, H, W, 3]; of sound nothing is kept.
            reference: The exact clip, likewise.

        Raises:
            OSError: The picture cannot be written.
        """
        if frames.ndim != 4:  # sound has no picture
            return
        key, psnr = (row["method"], row["setting"]), float(row["psnr"])
        if psnr >= self.lowest.get(key, float("inf")):
            return
        self.lowest[key] = psnr
        with told(self.folder):
            self.folder.mkdir(exist_ok=True)
        atomic_write_bytes(self.folder / file_name(*key), strip(frames, reference))


def file_name(method: str, setting: str) -> str:
    """Of a setting's picture."""
    return f"{distinct_name(f'{method} {setting}'.strip())}.jpg"


def strip(frames: Frames, reference: Frames) -> bytes:
    """A jpeg of three rows: the exact clip, the other one, and `GAIN` times their difference.

    Args:
        frames: uint8 [T, H, W, 3].
        reference: Likewise.
    """
    numbers = evenly_spaced(len(frames), min(FRAMES, len(frames)))
    difference = np.clip(GAIN * np.abs(frames.astype(np.int16) - reference.astype(np.int16)), 0, 255).astype(np.uint8)
    height = round(WIDTH * frames.shape[1] / frames.shape[2])
    size = (len(numbers) * (WIDTH + GAP) - GAP, 3 * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for line, clip in enumerate((reference, frames, difference)):
        for place, number in enumerate(numbers):
            frame = Image.fromarray(clip[number]).resize((WIDTH, height), Image.Resampling.BICUBIC)
            sheet.paste(frame, (place * (WIDTH + GAP), line * (height + GAP)))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()
