"""Films in files, through FFmpeg (PyAV): which stream is the film, and its frames, upright and in sRGB.

Shape legend: H height, W width in pixels; a frame is uint8 [H, W, 3].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from videoaccel.common.reading import Colour
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import first_line
from videoaccel.media.colour import WHITE, film_pixels
from videoaccel.media.encoders import Frames
from videoaccel.media.limits import check_pixels, most_pixels
from videoaccel.media.tones import tone_of
from videoaccel.media.upright import display_matrix, upright

_LISTS = ("hls", "concat", "dash")
"""FFmpeg's formats that are nothing themselves and name files, or addresses."""

FOLDER_FPS = 24.0
"""What a folder of frames, which cannot say, is taken to run at: the release's rate."""

_MATROSKA = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")

_ENOUGH = 0.9
"""Of a damaged film's frames, the share from which on it is read as players show it."""

# FFmpeg's numbers for streams that go with a film: a cover, thumbnails along the time, a still.
_DEFAULT, _BESIDE = 0x1, 0x400 | 0x800 | 0x100000


@dataclass(frozen=True)
class Film:
    """A film that is open.

    Attributes:
        frames: Its frames [H, W, 3], to be taken once, in order.
        fps: Frames per second.
        still: Whether it is a picture, whatever its name.
    """

    frames: Iterator[Frames]
    fps: float
    still: bool = False


@contextmanager
def open_film(path: Path, *, ground: Colour = WHITE) -> Iterator[Film]:
    """Open a file that FFmpeg reads.

    Args:
        path: The file, which is there.
        ground: What shows where the film is transparent.

    Raises:
        ValueError: It holds no film, or is damaged or cut short; also while frames are taken.
    """
    _check_whole(path)
    with worded(path):
        container = open_container(path)
    with container:
        with worded(path):
            stream = container.streams[film_stream(path, container)]
            context = stream.codec_context
            if context is None:
                raise ValueError(f"this FFmpeg has no decoder for it ({container.format.long_name})")
            check_pixels(context.height, context.width, name="it has frames of")
            context.options = {"max_pixels": str(most_pixels())}  # of frames that are larger than their header says
        yield Film(_frames(container, stream, path, ground), _rate(stream))


def open_container(path: Path) -> Any:
    """A file as FFmpeg opens it, and nothing but this file.

    Raises:
        ValueError: It is a list of other files.
        av.FFmpegError: It cannot be opened.
    """
    # With the protocol spelled out FFmpeg takes no name for a URL, and a list within the file leads to no network.
    container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    if (kind := container.format.name) in _LISTS:
        container.close()
        raise ValueError(f"it is a list of other files ({kind})")
    return container


@contextmanager
def worded(path: Path) -> Iterator[None]:
    """What FFmpeg says of a file, as a sentence that names it.

    Raises:
        ValueError: It is not readable.
    """
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path} is not a readable video (damaged or cut short?): {_line(error)}") from error


def film_stream(path: Path, container: Any) -> int:
    """Which stream is the film: one that moves before a still, the default before others, then the largest.

    Raises:
        ValueError: There is none.
    """
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & _BESIDE]
    if not streams:
        covers, sound = bool(container.streams.video), bool(container.streams.audio)
        beside = "only a cover" if covers else "only sound" if sound else "nothing to look at"
        raise ValueError(f"it has no video stream, {beside}")
    if len(streams) == 1:
        return int(streams[0].index)
    moving = _moving(path, [stream.index for stream in streams])

    def rank(stream: Any) -> tuple[bool, bool, int, int]:
        context = stream.codec_context  # None where FFmpeg has no decoder
        area = context.width * context.height if context else 0
        return (stream.index in moving, bool(int(stream.disposition) & _DEFAULT), area, -stream.index)

    return int(max(streams, key=rank).index)


def _moving(path: Path, indices: list[int]) -> set[int]:
    """The streams that have more than one frame."""
    seen: Counter[int] = Counter()
    with suppress(av.FFmpegError), open_container(path) as container:
        for packet in container.demux(*(container.streams[index] for index in indices)):
            seen[packet.stream_index] += bool(packet.size)
            if all(seen[index] > 1 for index in indices):
                break
    return {index for index in indices if seen[index] > 1}


def _frames(container: Any, stream: Any, path: Path, ground: Colour) -> Iterator[Frames]:
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    count = 0
    with worded(path):
        for frame in _decoded(container, stream, path):
            if not count and (tone := tone_of(frame)) and tone.warning:
                warn_user(f"{path} {tone.warning}")
            yield upright(film_pixels(frame, ground=ground), aspect=aspect, matrix=display_matrix(frame))
            count += 1
        if not count:
            raise ValueError("it has no frames")


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Decoded frames (``av.VideoFrame``); what is lost of a film that is whole but for a little is told.

    Raises:
        ValueError: Too much of it is damaged, or it is cut short; says how much is not.
    """
    decoder = decoder_of(stream)
    good, told = 0, False
    for packet in container.demux(stream):
        damage = ValueError("a part of it is damaged") if packet.is_corrupt else None
        frames = []
        try:
            frames = decoder.decode(packet if packet.size else None)
        except av.FFmpegError as error:
            if not good:
                raise
            damage = error
        if damage is not None and not told:
            _tell_damage(path, stream.index, good, damage)
            told = True
        good += len(frames)
        yield from frames


def decoder_of(stream: Any) -> Any:
    """The stream's decoder; for VP8 and VP9 with alpha, which FFmpeg's own leaves out, libvpx's."""
    context = stream.codec_context
    transparent = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    if not (transparent and context.name in ("vp8", "vp9")):
        return context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[context.name]
    try:
        decoder = av.CodecContext.create(name, "r")
    except (ValueError, av.FFmpegError) as error:
        raise ValueError(f"it is transparent, which takes the decoder {name}, and this FFmpeg has none") from error
    decoder.extradata = context.extradata
    return decoder


def _tell_damage(path: Path, index: int, good: int, error: Exception) -> None:
    """Warn of a film of which most frames can be made out, as players show it.

    Raises:
        ValueError: Too few can.
    """
    shown, due, damaged = _census(path, index)
    later = shown - good
    if later <= 0:
        raise ValueError(f"the file ends in the middle of a frame, after {good} whole ones")
    if shown < _ENOUGH * due:
        raise ValueError(
            f"{_line(error)} after {good} whole frames, and {later} more can be made out; "
            f"`ffmpeg -i FILE -c:v libx264 NEW.mp4` writes what a player shows of it"
        )
    warn_user(f"{path} is damaged: {shown} of about {due} frames can be made out, some from {damaged} damaged packets")


def _census(path: Path, index: int) -> tuple[int, int, int]:
    """How many frames a damaged film gives, how many it should by its packets and by its times, and damaged packets."""
    times: list[int] = []
    shown = packets = damaged = 0
    with open_container(path) as container:
        stream = container.streams[index]
        decoder = decoder_of(stream)
        for packet in container.demux(stream):
            hurt = bool(packet.is_corrupt)
            try:
                shown += len(decoder.decode(packet if packet.size else None))
            except av.FFmpegError:
                hurt = True
            packets, damaged = packets + bool(packet.size), damaged + hurt
            times += [packet.pts] if packet.size and packet.pts is not None else []
        span = (max(times) - min(times)) * stream.time_base if times else Fraction(0)
        by_time = round(span * Fraction(stream.average_rate or 0)) + 1
        return shown, max(packets, by_time, stream.frames), damaged  # frames by the header, of what is cut short


def _rate(stream: Any) -> float:
    # FFmpeg's average for a gif is a guess from its first delays, whole hundredths of a second.
    if stream.codec_context.name == "gif" and stream.frames and stream.duration:
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or FOLDER_FPS)


def _line(error: BaseException) -> str:
    return (error.strerror if isinstance(error, av.FFmpegError) else "") or first_line(error)


def _check_whole(path: Path) -> None:
    """Find files that were cut short in the two kinds of which FFmpeg reads what is there without a word.

    Raises:
        ValueError: The file is shorter than it says itself.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(-1, 2)
        last = file.read(1)
    short = head[:4] == b"GIF8" and last not in b";\0"  # some programs pad with zeros
    if head[:4] == _MATROSKA:
        before, _, segment = head.partition(_SEGMENT)
        # The length of the one big element: the leading zeros of its first byte say how many bytes it takes.
        count = 9 - (segment[:1] or b"\1")[0].bit_length()
        length = int.from_bytes(segment[:count], "big") & ((1 << 7 * count) - 1)
        known = length != (1 << 7 * count) - 1  # all ones in a live recording
        short = known and path.stat().st_size < len(before) + len(_SEGMENT) + count + length
    if short:
        raise ValueError(f"{path} is not a whole video: the file was cut short")
