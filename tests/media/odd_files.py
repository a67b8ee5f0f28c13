"""Pictures and films as people's machines write them, made small for the tests of reading."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from videoaccel.media.encoders import Frames

QUARTERS = ((200, 40, 40), (40, 160, 60), (40, 60, 200), (128, 128, 128))
"""Red, green over blue, grey."""


def quarters(height: int = 48, width: int = 64) -> Frames:
    """A picture [H, W, 3] whose quarters have the four colours."""
    frame = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(QUARTERS):
        down, right = divmod(number, 2)
        frame[down * height // 2 :, right * width // 2 :] = colour
    return frame


def middles(frame: Frames) -> list[tuple[int, ...]]:
    """The colours in the middle of a frame's quarters."""
    height, width = frame.shape[:2]
    places = ((height * y // 4, width * x // 4) for y in (1, 3) for x in (1, 3))
    return [tuple(int(value) for value in frame[place]) for place in places]


def near(frame: Frames, colours: Sequence[tuple[int, ...]] = QUARTERS, *, within: int = 4) -> bool:
    """Whether the quarters have the colours, but for what compression takes."""
    return bool(np.abs(np.array(middles(frame)) - np.array(colours)).max() <= within)


def film(
    path: Path,
    frames: Sequence[Frames],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: int = 6,
    aspect: Fraction | None = None,
    tags: dict[str, int] | None = None,
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    container: Any = None,
) -> Any:
    """Write a film; ``matrix`` is that of its colours, ``tags`` what it says of them (nothing unless told)."""
    alpha = frames[0].shape[2] == 4
    target = container or av.open(str(path), "w")
    stream = target.add_stream(codec, rate=24, options={"qp": "4"} if options is None else options)
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
    if aspect is not None:
        stream.codec_context.sample_aspect_ratio = aspect
    for name, value in (tags or {}).items():
        setattr(stream.codec_context, name, value)
    for name, text in (metadata or {}).items():
        stream.metadata[name] = text
    for frame in frames:
        raw = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba" if alpha else "rgb24")
        coded = raw.reformat(format=pixels, dst_colorspace=matrix)
        for name in ("colorspace", "color_range"):
            setattr(coded, name, (tags or {}).get(name, 2 if name == "colorspace" else 0))
        target.mux(stream.encode(coded))
    target.mux(stream.encode())
    if container is None:
        target.close()
    return stream


def shown_through(path: Path, matrix: Sequence[int]) -> None:
    """Write a display matrix (a, b, c, d), whole numbers, into the track header of an mp4."""
    data = path.read_bytes()
    rows = (
        [(1 << 16, 0, 0), (0, 1 << 16, 0)],
        [(matrix[0] << 16, matrix[1] << 16, 0), (matrix[2] << 16, matrix[3] << 16, 0)],
    )
    old, new = (b"".join(n.to_bytes(4, "big", signed=True) for row in matrix for n in row) for matrix in rows)
    place = data.index(old, data.index(b"tkhd"))
    path.write_bytes(data[:place] + new + data[place + len(old) :])


def profile(red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float]) -> bytes:
    """An ICC profile with these primaries (x, y), sRGB's white and a gamma of 2.2."""

    def tristimulus(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    white, d50 = np.array(tristimulus(0.3127, 0.3290)), np.array([0.9642, 1.0, 0.8249])
    primaries = np.array([tristimulus(*one) for one in (red, green, blue)]).T
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    columns = (adapted @ (primaries * np.linalg.solve(primaries, white))).T

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    name = b"test"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" + b"\0" * 78, b"wtpt": xyz(d50)}
    tags |= {b"cprt": b"text\0\0\0\0none\0", **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, columns), strict=True))}
    tags |= {
        key: b"curv\0\0\0\0" + struct.pack(">IH", 1, int(2.2 * 256)) + b"\0\0" for key in (b"rTRC", b"gTRC", b"bTRC")
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I", start + len(data)) + b"lcms" + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + xyz(d50)[8:] + b"\0" * 48
    return head + table + data


DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def disc(hidden: Any, side: int = 32) -> Frames:
    """A red disc [S, S, 4] with a soft edge; below what is transparent lies a colour, or noise."""
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(x - side / 2, y - side / 2)
    picture = np.zeros((side, side, 4), np.uint8)
    picture[..., :3] = hidden
    picture[radius < side * 0.4, :3] = (220, 30, 30)
    picture[..., 3] = (np.clip((side * 0.35 - radius) / 2 + 0.5, 0, 1) * 255).round()
    return picture


def on(ground: tuple[int, int, int], picture: Frames) -> Frames:
    """The reference of compositing, in floats."""
    share = picture[..., 3:] / 255
    return np.floor(picture[..., :3] * share + np.array(ground) * (1 - share) + 0.5).astype(np.uint8)


def save_moving(path: Path, pictures: Sequence[Frames], **more: Any) -> None:
    """An animated picture, a tenth of a second each."""
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=rest, duration=100, **more)
