"""Writing clips frame by frame, so that a long one is never in memory whole, and whole or not at all.

======================  ==============================================================================================
``clip.mp4``            H.264, yuv420p, which plays everywhere, in a browser while it loads. It wants even sizes: an odd
                        height or width gets one more row or column, a copy of the last one. 29.97 frames per second
                        are written as 30000/1001, and likewise the other rates of NTSC.
``clip.gif``            Repeats for ever; 256 colours for every frame, delays in whole hundredths of a second.
``clip.png``            Exactly one frame, nothing lost.
``clip/``               A new folder, or one that holds only frames: ``00000.png``, ``00001.png``, ..., nothing lost.
======================  ==============================================================================================

The same frames give the same bytes on one machine: the number of threads is fixed, and no date or version is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, TracebackType

import av
import numpy as np
from typing_extensions import Self

from videoaccel.common.files import atomic_file, atomic_folder, check_creatable, check_frame_folder, told
from videoaccel.common.user_warning import warn_user
from videoaccel.media.encoders import Encoder, Frames, by, file_encoder, folder_encoder
from videoaccel.settings.early import output_kind

CRF = 16
"""Quality of an mp4, x264's scale: 0 loses nothing, 23 is its default, below about 17 nobody sees a difference."""

_MOST_FPS = MappingProxyType({".gif": 100})  # it counts in hundredths of a second
_BROWSERS_GIF = 50  # frames that stay for less than two hundredths browsers show for ten


class Writer(AbstractContextManager["Writer"]):
    """Writes one clip; use it in a ``with`` block.

    After a block that ends well the path holds the whole clip. After one that does not, Ctrl-C included, it holds what
    it held before.

    >>> with Writer("clip.gif", fps=24) as writer:  # doctest: +SKIP
    ...     for chunk in chunks:
    ...         writer.write(chunk)

    Args:
        path: Where to; its ending says what (see `videoaccel.media.writer`). Only a str can end in "/".
        fps: Frames per second; png and folders do not keep it.
        crf: Quality of an mp4, from 0 to 51; smaller is better and larger.

    Raises:
        ValueError: The ending is unknown, fps or crf is out of range; at the end of the block, no frame was written.
        OSError: On entering, the folder is missing or read-only (FileNotFoundError, PermissionError), or a folder with
            other things than frames is in the way (FileExistsError); at any time, the disk is full.
    """

    def __init__(self, path: str | Path, *, fps: float | Fraction, crf: int = CRF) -> None:
        fps = float(fps)
        self.kind = output_kind(path)
        self.path = Path(path)
        self.frames = 0
        most = _MOST_FPS.get(self.kind, 1000)
        if not 0 < fps <= most:
            raise ValueError(f"fps must be above 0 and at most {most}; got {fps}")
        if self.kind == ".gif" and fps > _BROWSERS_GIF:
            warn_user(
                f"{path} has {fps:g} frames per second, and browsers play a .gif above {_BROWSERS_GIF} slowly; "
                f"write .mp4, or fewer frames per second"
            )
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must be between 0 and 51; got {crf}")
        self._fps, self._crf = fps, crf
        self._size: tuple[int, ...] = ()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with told(self.path):
            self._encoder = self._stack.enter_context(self._opened())
        return self

    def write(self, frames: Frames) -> None:
        """Add frames, uint8 [t, H, W, 3].

        Raises:
            ValueError: They have another type, shape or size than the first ones, are more than a png can hold, or of a
                size that the encoder refuses.
            OSError: The disk is full.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
            raise ValueError(f"frames must be uint8 [t, H, W, 3]; got {frames.dtype} {list(frames.shape)}")
        size = frames.shape[1:3]
        if self._size and size != self._size:
            raise ValueError(f"{self.path} has frames of {by(self._size)} pixels so far; got {by(size)}")
        self._size = size
        for frame in frames:
            with told(self.path):
                self._encoder.add(np.ascontiguousarray(frame))
            self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with told(self.path), self._stack:
            if not self.frames:
                raise ValueError(f"no frames were written to {self.path}")

    @contextmanager
    def _opened(self) -> Iterator[Encoder]:
        """An encoder that writes to a temporary name; both are finished, or thrown away, when the block ends."""
        if self.kind == "/":
            with atomic_folder(self.path) as folder:
                yield folder_encoder(folder)
            return
        with atomic_file(self.path) as file:
            encoder = file_encoder(self.kind, file, fps=self._fps, crf=self._crf)
            try:
                yield encoder
                encoder.finish()
            finally:
                encoder.close()


def check_writable(path: str | Path) -> None:
    """Make sure, before a long job, that a clip can be written there; tries it with an empty file beside it.

    Raises:
        ValueError: The ending is unknown, or this FFmpeg has no encoder for it.
        OSError: The folder is missing or read-only, the name is too long, or something is in the way that must not be
            replaced.
    """
    kind = output_kind(path)
    path = Path(path)
    check_creatable(path)
    if kind == "/":
        check_frame_folder(path)
    elif path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: a folder has that name; for frames in a folder, end it in '/'")
    if kind == ".mp4":
        try:
            av.Codec("libx264", "w")
        except ValueError as error:
            raise ValueError(f"cannot write {path}: this PyAV has no libx264; the one on PyPI does") from error
