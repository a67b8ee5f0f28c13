"""One encoder for each kind of file a clip can be written to; `videoaccel.media.writer` chooses and feeds them."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Protocol, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Frames: TypeAlias = "npt.NDArray[np.uint8]"
"""Frames uint8 [T, H, W, 3], or one of them [H, W, 3], RGB."""

# x264's bytes depend on the number of threads; and, where the processor has AVX-512, its "mbtree" (which spares bits in
# blocks that are soon replaced) also reads memory that nobody wrote: seen with PyAV 18's, also on one thread.
_X264 = MappingProxyType({"threads": "4", "mbtree": "0"})

# FFmpeg's numbers. BT.601 in the range of television is what FFmpeg's scaler makes of RGB unless told otherwise, and
# what readers that are blind to tags assume; primaries and transfer are those of screens, BT.709.
_TAGS = (("colorspace", 6), ("color_range", 1), ("color_primaries", 1), ("color_trc", 1))


def by(size: tuple[int, ...]) -> str:
    """Height and width as text.

    >>> by((48, 64))
    '48x64'
    """
    return "x".join(map(str, size))


def film_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as films have them: what is within 0.005 of a whole number's 1000/1001 is that of NTSC.

    >>> film_rate(29.97), film_rate(23.976), film_rate(24), film_rate(12.5)
    (Fraction(30000, 1001), Fraction(24000, 1001), Fraction(24, 1), Fraction(25, 2))
    """
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    near = fps % 1 != 0 and abs(float(fps) - float(ntsc)) < 0.005
    return ntsc if near else Fraction(fps).limit_denominator(1001)


class Encoder(Protocol):
    """Takes frames [H, W, 3] of one size one by one."""

    def add(self, frame: Frames) -> None:
        """Encode one more frame."""

    def finish(self) -> None:
        """Write what is left; all frames have been added."""

    def close(self) -> None:
        """Let go of everything, finished or not."""


def file_encoder(kind: str, file: BinaryIO, *, fps: float, crf: int) -> Encoder:
    """An encoder that writes one of the kinds ".mp4", ".gif" and ".png" to an open file."""
    if kind == ".png":
        return _PngEncoder(file)
    if kind == ".gif":
        return _AvEncoder(file, container="gif", codec="gif", fps=fps, pixels="pal8")
    options = {"crf": str(crf), **_X264}
    return _AvEncoder(
        file, container="mp4", codec="libx264", fps=fps, pixels="yuv420p", options=options, movflags="+faststart"
    )


def folder_encoder(folder: Path) -> Encoder:
    """An encoder that writes numbered png files to a folder."""
    return _FolderEncoder(folder)


class _PngEncoder:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.full = False

    def add(self, frame: Frames) -> None:
        if self.full:
            raise ValueError("a .png holds one frame only; write .mp4, .gif, or a folder whose name ends in '/'")
        Image.fromarray(frame).save(self.file, format="png")
        self.full = True

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _FolderEncoder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, frame: Frames) -> None:
        Image.fromarray(frame).save(self.folder / f"{self.count:05d}.png")
        self.count += 1

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _AvEncoder:
    """mp4 and gif through FFmpeg; the first frame's size opens the stream."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        container: str,
        codec: str,
        fps: float,
        pixels: str,
        options: dict[str, str] | None = None,
        movflags: str = "",
    ) -> None:
        self.file = _Recorder(file)
        # "bitexact" keeps FFmpeg's version out of the file. To put an mp4's table before its frames, so that a browser
        # plays it while it loads, FFmpeg reads the file once more, by its name.
        how = {"fflags": "+bitexact"} | ({"movflags": movflags} if movflags else {})
        again = {"io_open": self.file.again} if movflags else {}
        self.container = av.open(self.file, "w", format=container, options=how, **again)
        self.stream: Any = self.container.add_stream(codec, rate=film_rate(fps), options=options or {})
        self.stream.pix_fmt = pixels
        self.count = 0

    def add(self, frame: Frames) -> None:
        if self.stream.pix_fmt == "pal8":
            picture = av.VideoFrame.from_ndarray(_palette(frame), format="pal8")
        else:
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
        if not self.count:
            self.stream.width, self.stream.height = picture.width, picture.height
            for tag, value in _TAGS if self.stream.pix_fmt == "yuv420p" else ():
                setattr(self.stream.codec_context, tag, value)
        picture.pts = self.count
        self._encode(picture)
        self.count += 1

    def finish(self) -> None:
        self._encode(None)
        self.container.close()
        self.file.check()

    def close(self) -> None:
        self.file.discard = True
        with suppress(Exception):  # what matters has been said; PyAV may complain about an unfinished stream
            self.container.close()

    def _encode(self, picture: Any) -> None:
        try:
            self.container.mux(self.stream.encode(picture))
        except av.FFmpegError as error:
            self.file.check()
            size = by((self.stream.height, self.stream.width))
            raise ValueError(f"frames of {size} pixels cannot be encoded: {error.strerror}") from error
        self.file.check()


class _Recorder:
    """Hands PyAV's bytes to a file and keeps the first error for `check`.

    PyAV calls it from C: an exception raised there is printed, or lost when it comes with the last bytes of a file,
    which a full disk does.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: BaseException | None = None
        self.discard = False

    def write(self, data: bytes) -> int:
        if not self.discard:
            try:
                self.file.write(data)
            except BaseException as error:
                self.error, self.discard = error, True
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        if not self.discard:
            try:
                return self.file.seek(offset, whence)
            except BaseException as error:  # seeking writes what the buffer holds
                self.error, self.discard = error, True
        return offset

    def again(self, *_: Any) -> BinaryIO:
        """The same file to read, which PyAV closes, with all that has been written in it."""
        try:
            self.file.flush()
        except BaseException as error:
            self.error, self.discard = error, True
        return open(self.file.name, "rb")

    def tell(self) -> int:
        return 0 if self.discard else self.file.tell()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


def _even(frame: Frames) -> Frames:
    """Repeat the last row and the last column where there is an odd number of them."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _palette(frame: Frames) -> tuple[Frames, Frames]:
    """The frame in at most 256 colours: indices [H, W] and FFmpeg's palette [256, 4], alpha first."""
    image = Image.fromarray(frame).quantize(256)
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    return np.array(image), palette
