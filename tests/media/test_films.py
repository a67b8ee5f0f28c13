"""Films as cameras, editors and broadcasts leave them: the frames a player shows."""

from __future__ import annotations

import io
import tracemalloc
import warnings
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import render, write
from tests.media.odd_files import film, near, quarters, shown_through
from videoaccel.common.picture_names import is_image
from videoaccel.generation.references import read_clip
from videoaccel.media import second_reader
from videoaccel.media.encoders import Frames
from videoaccel.media.pictures import picture_format
from videoaccel.media.reader import fit, read_image, read_video
from videoaccel.media.second_reader import read_like_players
from videoaccel.media.upright import upright

# How a stored picture is turned into the one above it: what the matrix (a, b, c, d) says, and what undoes it.
TURNS = {
    (1, 0, 0, 1): lambda a: a,
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (-1, 0, 0, -1): lambda a: a[::-1, ::-1],
    (0, 1, -1, 0): lambda a: np.rot90(a, 1),
    (0, -1, 1, 0): lambda a: np.rot90(a, -1),
    (0, 1, 1, 0): lambda a: a.swapaxes(0, 1),
    (0, -1, -1, 0): lambda a: np.rot90(a, 2).swapaxes(0, 1),
}


# Orientation and aspect


@pytest.mark.parametrize("matrix", TURNS)
def test_the_whole_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    stored = np.ascontiguousarray(TURNS[matrix](quarters()))
    assert np.array_equal(upright(stored, matrix=matrix), quarters())
    film(tmp_path / "a.mp4", [stored])
    shown_through(tmp_path / "a.mp4", matrix)
    frames, _ = read_video(tmp_path / "a.mp4")
    assert frames.shape == (1, 48, 64, 3) and near(frames[0])


@pytest.mark.parametrize(("width", "aspect"), [(32, Fraction(2)), (128, Fraction(1, 2)), (64, Fraction(1))])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, name: str, width: int, aspect: Fraction) -> None:
    film(tmp_path / name, [quarters(48, width)], aspect=aspect)
    frame = read_video(tmp_path / name)[0][0]
    assert frame.shape[1] * 48 == frame.shape[0] * 64 and frame.shape[0] >= 48 and frame.shape[1] >= 64
    assert near(frame)


def test_aspects_are_of_the_stored_frame_and_nonsense_is_not_believed() -> None:
    lying = np.zeros((48, 32, 3), np.uint8)
    assert upright(lying, aspect=Fraction(2), matrix=(0, 1, -1, 0)).shape == (64, 48, 3)
    assert upright(lying, aspect=Fraction(1000)).shape == (48, 32, 3)


# Which stream


def _two_tracks(path: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Two video tracks; each is ``frames`` and ``disposition``."""
    with av.open(str(path), "w") as container:
        parts = []
        for track in (first, second):
            memory = io.BytesIO()
            with av.open(memory, "w", format="matroska") as one:
                film(path, track["frames"], container=one)
            memory.seek(0)
            parts.append(av.open(memory))
        streams = [container.add_stream_from_template(part.streams.video[0]) for part in parts]
        for stream, track in zip(streams, (first, second), strict=True):
            stream.disposition = track["disposition"]
        packets = [
            (packet, stream) for part, stream in zip(parts, streams, strict=True) for packet in part.demux(video=0)
        ]
        for packet, stream in packets:
            if packet.size:
                packet.stream = stream
                container.mux(packet)


MOVING, STILL, SMALL = [quarters()] * 4, [np.full((96, 96, 3), 200, np.uint8)], [np.zeros((16, 16, 3), np.uint8)] * 4
DEFAULT = av.stream.Disposition.default
NONE = av.stream.Disposition(0)
COVER = av.stream.Disposition.attached_pic


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"frames": STILL, "disposition": NONE}, {"frames": MOVING, "disposition": DEFAULT}),
        ({"frames": STILL, "disposition": DEFAULT}, {"frames": MOVING, "disposition": NONE}),
        ({"frames": SMALL, "disposition": NONE}, {"frames": MOVING, "disposition": DEFAULT}),
        ({"frames": MOVING, "disposition": DEFAULT}, {"frames": SMALL, "disposition": DEFAULT}),
        ({"frames": MOVING, "disposition": DEFAULT}, {"frames": STILL, "disposition": NONE}),
    ],
)
def test_the_film_is_found_among_other_tracks(tmp_path: Path, name: str, first: Any, second: Any) -> None:
    _two_tracks(tmp_path / name, first, second)
    frames, _ = read_video(tmp_path / name)
    assert frames.shape == (4, 48, 64, 3) and near(frames[0])


def test_files_without_a_film_say_what_they_have(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "cover.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 32, 32, "yuvj420p", COVER
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(sound.encode())
        container.mux(cover.encode())
    with pytest.raises(ValueError, match=r"cover\.mp4 .*it has no video stream, only a cover"):
        read_video(tmp_path / "cover.mp4")


# Damage, and readers


def _broadcast(path: Path, count: int = 24) -> None:
    frames = [np.full((48, 64, 3), 16 + 216 // count * k, np.uint8) for k in range(count)]
    film(path, frames, options={"qp": "4", "g": "6", "bf": "0"})


def _lose(path: Path, lost: Callable[[int], bool]) -> None:
    """Take packets of a transport stream away, by their numbers."""
    packets = [path.read_bytes()[at : at + 188] for at in range(0, path.stat().st_size, 188)]
    path.write_bytes(b"".join(packet for number, packet in enumerate(packets) if not lost(number)))


@pytest.mark.parametrize("read", [read_video, read_like_players])
def test_a_film_that_lost_a_little_is_read_and_told(tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_reader, "find_spec", lambda name: object())
    path = tmp_path / "a.ts"
    _broadcast(path, 48)
    _lose(path, lambda number: number == 39)
    with pytest.warns(UserWarning, match=r"a\.ts is damaged: \d+ of about 48 frames .* from 1 damaged packets"):
        levels = _levels(read(path)[0])
    assert 43 < len(levels) < 48 and levels[0] == pytest.approx(16, abs=2)
    assert levels[-1] == pytest.approx(16 + 4 * 47, abs=2)


def test_a_film_cut_short_by_half_is_no_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frames = [np.full((48, 64, 3), 16 + 4 * k, np.uint8) for k in range(48)]
    film(path, frames, options={"qp": "4", "bf": "2", "movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    with pytest.raises(ValueError, match=r"not a readable video"):
        read_video(path)


@pytest.mark.parametrize("read", [read_video, read_like_players])
def test_what_ffmpeg_has_no_decoder_for_is_told(tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_reader, "find_spec", lambda name: object())
    path = tmp_path / "a.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(ValueError, match=r"a\.svg is not a readable video .*no decoder"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(path)


def test_a_damaged_film_says_how_much_of_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    _broadcast(path)
    _lose(path, lambda number: number % 3 == 2)
    with pytest.raises(ValueError, match=r"damaged after \d+ whole frames, and \d+ more can be made out; `ffmpeg -i"):
        read_video(path)


def _levels(frames: Frames) -> list[int]:
    return [int(frame[24, 32, 0]) for frame in frames]


def test_a_broadcast_joined_late_begins_at_its_first_key_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    _broadcast(path)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])
    levels = _levels(read_video(path)[0])
    assert levels[-1] == pytest.approx(16 + 9 * 23, abs=2) and 10 < len(levels) < 24
    assert all(after > before for before, after in pairwise(levels))


def _door_for(monkeypatch: pytest.MonkeyPatch, frames: Frames | None) -> None:
    """In place of decord: frames, or an error."""

    def door(path: Path) -> tuple[Frames, float]:
        if frames is None:
            raise ValueError(f"decord cannot read {path}: no")
        return frames, 24.0

    monkeypatch.setattr(second_reader, "find_spec", lambda _: True)
    monkeypatch.setattr(second_reader, "read_with_decord", door)


def test_decord_reads_ordinary_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.mp4", render(3))
    mine = np.zeros((3, 32, 48, 3), np.uint8)
    _door_for(monkeypatch, mine)
    assert read_like_players(tmp_path / "a.mp4")[0] is mine


@pytest.mark.parametrize("kind", ["mirrored", "aspect", "alpha", "transport", "hd", "edit list", "fewer", "fails"])
def test_where_decord_would_give_other_frames_pyav_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / {"transport": "a.ts", "alpha": "a.mov"}.get(kind, "a.mp4")
    size = (720, 1280) if kind == "hd" else (48, 64)
    if kind == "alpha":
        film(path, [np.zeros((48, 64, 4), np.uint8)] * 2, codec="png", pixels="rgba", options={})
    else:
        film(
            path,
            [quarters(*size)] * (24 if kind == "transport" else 2),
            aspect=Fraction(2) if kind == "aspect" else None,
        )
    if kind == "mirrored":
        shown_through(path, (-1, 0, 0, 1))
    if kind == "edit list":
        _cut_front(path)
    _door_for(monkeypatch, None if kind == "fails" else np.zeros((1, 48, 64, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"is read by PyAV: .*decord"):
        frames, fps = read_like_players(path)
    assert np.array_equal(frames, read_video(path)[0]) and fps == read_video(path)[1]


def _cut_front(path: Path) -> None:
    """As editors trim without encoding anew: the frames stay, a list says that the first is not shown."""
    source = path.rename(path.with_name("whole.mp4"))
    with av.open(str(source)) as whole, av.open(str(path), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.pts -= 512
                packet.dts -= 512
                packet.stream = stream
                cut.mux(packet)


def test_what_nobody_can_read_is_told_in_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 99)
    _door_for(monkeypatch, None)
    for read in (read_like_players, read_video):
        with pytest.raises(ValueError, match=r"a\.mp4 is not a readable video"):
            read(tmp_path / "a.mp4")


def test_decord_gives_the_frames_of_players(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord is not installed")
    write(tmp_path / "a.mp4", render(5))
    assert np.array_equal(read_like_players(tmp_path / "a.mp4")[0], read_video(tmp_path / "a.mp4")[0])


# Pictures by their contents


def test_stills_of_every_format_take_the_path_of_pictures(tmp_path: Path) -> None:
    names = ("a.jfif", "a.JPE", "a.heic", "a.HEIF", "a.hif", "a.avif", "a.tga", "a.ppm", "a.jp2")
    assert all(is_image(name) for name in names)
    frame = render(1, 33, 47)
    for name, kind in (("a.jfif", "jpeg"), ("no ending", "jpeg"), ("b.mp4", "png"), ("c.bin", "webp")):
        Image.fromarray(frame[0]).save(tmp_path / name, format=kind)
        expected = fit(read_image(tmp_path / name), 16, 24, still=True)
        assert np.array_equal(read_clip(tmp_path / name, height=16, width=24), expected)


def test_a_photograph_under_a_films_name_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(quarters(), 1)).save(tmp_path / "a.mp4", format="jpeg", exif=exif, quality=95)
    assert near(read_video(tmp_path / "a.mp4")[0][0], within=8)


def test_of_an_animation_as_a_picture_the_first_frame_is_taken_and_told(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    with pytest.warns(UserWarning, match=r"a\.webp holds 2 pictures; the first is taken"):
        assert tuple(read_image(tmp_path / "a.webp")[0, 0, 0]) == (255, 0, 0)


def _heic_head(brand: bytes, other: bytes) -> bytes:
    return (24).to_bytes(4, "big") + b"ftyp" + brand + b"\0" * 4 + b"mif1" + other + b"\0" * 64


@pytest.mark.parametrize(("brand", "kind"), [(b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF")])
@pytest.mark.parametrize("name", ["a.heic", "a.jpg", "a.mp4"])
def test_heif_is_never_read_tile_by_tile(tmp_path: Path, name: str, brand: bytes, kind: str) -> None:
    """FFmpeg would give the first tile; Pillow reads the whole item or nothing."""
    (tmp_path / name).write_bytes(_heic_head(brand, brand))
    assert picture_format(tmp_path / name) == kind
    for read in (read_image, read_video):
        with pytest.raises(ValueError, match=rf"{name} is (a picture in the format {kind}|not a readable picture)"):
            read(tmp_path / name)


def test_a_film_of_a_telephone_is_no_picture(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", render(2))
    assert picture_format(tmp_path / "a.mp4") is None


# Memory


def test_the_end_of_a_film_costs_the_memory_of_its_end(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", np.zeros((64, 64, 64, 3), np.uint8))
    whole = read_clip(tmp_path / "a.mp4", height=16, width=16)
    tracemalloc.start()
    tail = read_clip(tmp_path / "a.mp4", height=16, width=16, last=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(tail, whole[:, -2:]) and peak < 20 * 64 * 64 * 3
    assert len(read_video(tmp_path / "a.mp4", max_frames=9, last=2)[0]) == 2
    with pytest.raises(ValueError, match="last must be at least 1; got 0"):
        read_video(tmp_path / "a.mp4", last=0)
