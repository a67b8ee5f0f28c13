"""Clips for the tests of reading and writing, rendered with numpy."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from videoaccel.media.encoders import Frames
from videoaccel.media.writer import Writer

ENDINGS = (".mp4", ".gif", "/")


def render(frames: int = 9, height: int = 32, width: int = 48) -> Frames:
    """Slow colour ramps with a disc that moves one pixel a frame."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    clip = np.stack([x * 200 // width + 2 * t, y * 200 // height, 128 + 60 * np.sin(x / 9 + t / 5)], axis=-1)
    clip[(x - t - 6) ** 2 + (y - 10) ** 2 < 30] += 40  # in brightness only: mp4 halves the resolution of colour
    return clip.clip(0, 255).astype(np.uint8)


def write(path: str | Path, frames: Frames, *, fps: float = 24, chunk: int = 4) -> None:
    with Writer(path, fps=fps) as writer:
        for start in range(0, len(frames), chunk):
            writer.write(frames[start : start + chunk])


def psnr(a: Frames, b: Frames) -> float:
    assert a.shape == b.shape
    error = ((a.astype(np.float64) - b) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def transcode(path: Path, frames: Frames, codec: str, **options: str) -> None:
    """Write with FFmpeg as other programs do."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
