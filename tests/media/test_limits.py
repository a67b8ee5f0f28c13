"""Small files that claim to be large, and what is no plain file, end in a sentence before memory or time is spent."""

import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from videoaccel.eval.sampling import short_side_size
from videoaccel.generation.references import read_clip
from videoaccel.media import limits
from videoaccel.media.reader import open_clip, read_image, read_video
from videoaccel.media.second_reader import read_like_players
from videoaccel.media.writer import Writer


def png(path: Path, *, width: int, height: int) -> Path:
    """A picture that says to be of this size, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * (min(height, 1000) * (1 + (width + 7) // 8)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_a_picture_that_says_to_be_of_billions_of_pixels(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", width=65535, height=65535)
    for read in (read_image, read_video, lambda path: read_clip(path, height=32, width=32)):
        with pytest.raises(ValueError, match=r"a\.png has 65,535x65,535 pixels; at most 178,956,970 in all are read"):
            read(path)


def test_a_strip_would_become_endless(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", width=65535, height=1)
    assert path.stat().st_size < 300 and read_image(path).shape == (1, 1, 65535, 3)
    with pytest.raises(ValueError, match=r"a\.png: 1x65,535 pixels, .* 240x426, would have 240x15,728,400 pixels"):
        read_clip(path, height=240, width=426)
    with pytest.raises(ValueError, match="1x65535 pixels are a strip"):
        short_side_size(1, 65535, 224)


def test_a_film_that_says_to_be_of_billions_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    with Writer(path, fps=8) as writer:
        writer.write(np.zeros((3, 64, 96, 3), np.uint8))
    assert read_video(path)[0].shape == (3, 64, 96, 3)
    monkeypatch.setenv(limits.SETTING, str(64 * 96 - 1))
    with pytest.raises(ValueError, match=r"a\.mp4 is not a readable video .*: it has frames of 64x96 pixels; at most"):
        read_video(path)
    monkeypatch.setenv(limits.SETTING, "many")
    with pytest.raises(ValueError, match="VIDEOACCEL_MOST_PIXELS is 'many'; a number of pixels above 0 is wanted"):
        read_video(path)


def test_who_has_large_pictures_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png(tmp_path / "a.png", width=200, height=100)
    monkeypatch.setenv(limits.SETTING, "19999")
    with pytest.raises(ValueError, match=r"VIDEOACCEL_MOST_PIXELS allows more"):
        read_image(path)
    monkeypatch.setenv(limits.SETTING, "20000")
    assert read_image(path).shape == (1, 100, 200, 3)


def test_a_clip_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)) for i in range(5)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with Writer(tmp_path / "a.gif", fps=8) as writer:
        writer.write(np.stack([np.array(frame) for frame in frames]))
    monkeypatch.setattr(limits, "machine_memory", lambda: 2 * 4 * 1200)
    for name in ("a.webp", "a.gif"):
        with pytest.raises(ValueError, match=rf"{name} does not fit into memory: its first 4 frames take 5.9 KiB"):
            read_video(tmp_path / name)
    assert len(read_video(tmp_path / "a.gif", last=4)[0]) == 4, "no more than is kept"


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_lists_of_other_files_are_no_films(tmp_path: Path, text: str) -> None:
    with av.open(str(tmp_path / "secret.ts"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    (tmp_path / "a.mp4").write_text(text.format("secret.ts"))
    with pytest.raises(ValueError, match=r"a\.mp4 is not a readable video"), open_clip(tmp_path / "a.mp4") as clip:
        next(clip.frames)


def test_pictures_that_start_programs_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"a\.png is not a readable picture"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, Path("/dev/zero")):
        for read in (read_image, read_video, read_like_players):
            with pytest.raises(ValueError, match="is not a file"):
                read(path)
    with pytest.raises(ValueError, match=r"is not a file|is no plain file"):
        read_video(tmp_path) if name == "pipe.png" else read_image(tmp_path)
