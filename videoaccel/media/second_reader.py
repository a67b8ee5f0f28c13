"""Clips through decord, as long as it gives the frames that players show; else PyAV reads them, and says so."""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av

from videoaccel.common.reading import Colour
from videoaccel.common.user_warning import warn_user
from videoaccel.media.colour import WHITE, is_untagged_hd, shows_ground
from videoaccel.media.decord_door import read_with_decord
from videoaccel.media.encoders import Frames
from videoaccel.media.films import decoder_of, film_stream, open_container, worded
from videoaccel.media.limits import most_pixels
from videoaccel.media.pictures import existing_file, picture_format
from videoaccel.media.reader import read_video
from videoaccel.media.tones import tone_of
from videoaccel.media.upright import display_matrix

_TRUSTED = ("mov,", "matroska,", "avi")
"""FFmpeg's names of the containers that decord finds every frame of."""


def read_like_players(path: Path, *, ground: Colour = WHITE) -> tuple[Frames, float]:
    """Frames uint8 [T, H, W, 3] and frames per second, by decord; ground as for `read_video`.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: decord is not installed, or nobody can read the file.
    """
    path = existing_file(path)
    if find_spec("decord") is None:
        return read_with_decord(path)  # which says so
    reason, count = _unlike(path)
    if reason is None:
        try:
            frames, fps = read_with_decord(path)
        except ValueError as error:
            if not count:
                raise
            reason = str(error)
        else:
            if len(frames) == count:
                return frames, fps
            reason = f"decord gives {len(frames)} of {count} frames"
    warn_user(f"{path} is read by PyAV: {reason}")
    return read_video(path, ground=ground)


def _unlike(path: Path) -> tuple[str | None, int]:
    """Why decord's frames would not be those of players, None if they may be; and how many there are, 0 if unknown.

    Raises:
        ValueError: It is no film that can be read.
    """
    if picture_format(path) is not None:
        return "decord reads no pictures", 0
    with worded(path), open_container(path) as container:
        stream = container.streams[film_stream(path, container)]
        context = stream.codec_context
        if context is None:
            return "decord has no decoder for it", 0
        if context.width * context.height > most_pixels():
            return "decord knows no limit to the size of frames", 0
        if not container.format.name.startswith(_TRUSTED):
            return f"decord loses its way in {container.format.long_name}", 0
        if len(container.streams.video) > 1:
            return "decord may take another of its video streams", 0
        if Fraction(stream.sample_aspect_ratio or 1) != 1:
            return "decord takes its pixels for square", 0
        return _packets(container, stream)


def _packets(container: Any, stream: Any) -> tuple[str | None, int]:
    decoder, count, known = decoder_of(stream), 0, False
    for packet in container.demux(stream):
        if packet.is_corrupt:
            return "a part of it is damaged", 0
        if packet.is_discard:
            return "decord does not know edit lists", 0
        if packet.size and not count and not packet.is_keyframe:
            return "decord needs a key frame at the beginning", 0
        count += bool(packet.size)
        try:
            frames = [] if known else decoder.decode(packet if packet.size else None)
        except av.FFmpegError:
            return "a part of it is damaged", 0
        for frame in frames:
            known = True
            if reason := _frame(frame):
                return reason, 0
    return None, count


def _frame(frame: Any) -> str | None:
    a, b, c, d = display_matrix(frame)
    if a * d - b * c < 0:
        return "decord does not mirror"
    if shows_ground(frame):
        return "decord drops transparency"
    if is_untagged_hd(frame):
        return "decord takes its colours for BT.601's"
    if tone_of(frame) is not None:
        return "decord takes its wide colours for sRGB's"
    if any(part.bits > 8 for part in frame.format.components):
        return "decord rounds its colours otherwise"
    return None
