"""One clip on its way to disk, and what is made of its frames beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videoaccel.jobs.resolve import WorkOrder
from videoaccel.jobs.sidecar import file_hash
from videoaccel.media.contact_sheet import contact_sheet, evenly_spaced
from videoaccel.media.encoders import Frames
from videoaccel.media.writer import Writer
from videoaccel.settings.latent_frames import frames_of

SHEET_FRAMES = 16


class ClipFile:
    """One clip on its way to disk; remembers the frames of its contact sheet."""

    def __init__(self, writer: Writer, order: WorkOrder) -> None:
        s = order.settings
        assert s.frames is not None
        again = frames_of(s.condition_latents or 0)
        self.writer, self.size = writer, (0, 0)
        self.wanted = evenly_spaced(s.frames + (s.loops - 1) * (s.frames - again), SHEET_FRAMES)
        self.kept: list[Frames] = []

    def add(self, frame: Frames) -> None:
        """Write a frame, uint8 [H, W, 3]."""
        number = self.writer.frames
        self.writer.write(frame[None])
        self.size = (int(frame.shape[0]), int(frame.shape[1]))
        if number in self.wanted:
            self.kept.append(frame.copy())  # a view would keep its whole chunk

    def describe(self, clip: str, *, fps: float | None) -> dict[str, Any]:
        """The finished file."""
        (height, width), frames = self.size, self.writer.frames
        sha256 = file_hash(Path(clip))
        return {"file": clip, "sha256": sha256, "frames": frames, "height": height, "width": width, "fps": fps}

    def sheet(self) -> bytes:
        """The contact sheet, a png."""
        data = io.BytesIO()
        contact_sheet(np.stack(self.kept), numbers=self.wanted).save(data, "PNG")
        return data.getvalue()

    def poster(self) -> bytes:
        """A frame from the middle, a jpeg."""
        data = io.BytesIO()
        Image.fromarray(self.kept[len(self.kept) // 2]).save(data, "JPEG", quality=85)
        return data.getvalue()
