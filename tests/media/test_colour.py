"""Whatever colours a file has, what comes out is sRGB on a stated ground."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.media.odd_files import (
    DISPLAY_P3,
    QUARTERS,
    disc,
    film,
    middles,
    near,
    on,
    profile,
    quarters,
    save_moving,
)
from videoaccel.common.reading import parse_colour
from videoaccel.generation.references import read_clip
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import read_image, read_video
from videoaccel.media.tones import Tone, in_srgb

WHITE = (255, 255, 255)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3))


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("error", UserWarning)


# Transparency


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("ground", [WHITE, (0, 128, 40)])
def test_what_lies_hidden_below_transparency_never_shows(
    tmp_path: Path, name: str, ground: tuple[int, int, int]
) -> None:
    for hidden in ((0, 0, 0), WHITE, NOISE):
        picture = disc(hidden)
        Image.fromarray(picture).save(tmp_path / name, **({"lossless": True, "exact": True} if "webp" in name else {}))
        read = read_image(tmp_path / name, ground=ground)[0].astype(int)
        assert np.abs(read - on(ground, picture)).max() <= 1
        assert tuple(read[0, 0]) == ground


def _palette(path: Path) -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.paste(1, (4, 0, 8, 8))
    picture.putpalette([255, 0, 255, 220, 30, 30])
    picture.save(path, transparency=0)


def _palette_alpha(path: Path) -> None:
    _palette(path)
    Image.open(path).convert("RGBA").convert("PA").save(path.with_suffix(".tif"))  # a mode that few programs write
    Image.open(path).convert("RGBA").quantize(4).save(path)


def _colour_key(path: Path) -> None:
    picture = np.full((8, 8, 3), (255, 0, 255), np.uint8)
    picture[:, 4:] = (220, 30, 30)
    Image.fromarray(picture).save(path, transparency=(255, 0, 255))


@pytest.mark.parametrize("write", [_palette, _palette_alpha, _colour_key])
def test_every_form_of_transparency_shows_the_ground(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.png")
    left, right = (tuple(read_image(tmp_path / "a.png")[0, 4, x]) for x in (1, 6))
    assert left == WHITE and np.abs(np.array(right, int) - (220, 30, 30)).max() <= 2


def test_grey_with_alpha_or_a_key_of_sixteen_bits(tmp_path: Path) -> None:
    grey = np.zeros((4, 4, 2), np.uint8)
    grey[:, 2:] = (100, 255)
    Image.fromarray(grey, "LA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0, :, 0].tolist() == [255, 255, 100, 100]
    keyed = np.zeros((4, 4), np.uint16)
    keyed[:, 2:] = 100 * 257
    Image.fromarray(keyed).save(tmp_path / "b.png", transparency=0)
    assert read_image(tmp_path / "b.png")[0, 0, :, 0].tolist() == [255, 255, 100, 100]


@pytest.mark.parametrize("name", ["a.apng", "a.gif", "a.webp"])
def test_animations_are_laid_on_the_ground_frame_by_frame(tmp_path: Path, name: str) -> None:
    pictures = [np.roll(disc((0, 255, 0)), shift, axis=1) for shift in (0, 3, 6)]
    more = {"lossless": True, "exact": True} if "webp" in name else {"disposal": 2} if "gif" in name else {}
    save_moving(tmp_path / name, pictures, **more)
    frames, fps = read_video(tmp_path / name)
    assert len(frames) == 3 and fps == pytest.approx(10)
    for frame, picture in zip(frames, pictures, strict=True):
        inside, outside = picture[..., 3] == 255, picture[..., 3] == 0
        assert (frame[outside] == 255).all()
        assert np.abs(frame[inside].astype(int) - (220, 30, 30)).max() <= 8  # gif has a palette


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mov", "png", "rgba"), ("a.webm", "libvpx-vp9", "yuva420p")])
def test_films_with_alpha_are_laid_on_the_ground(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    picture = disc((0, 255, 0), side=64)
    tag = {"alpha_mode": "1"} if "vp9" in codec else None
    film(tmp_path / name, [picture] * 3, codec=codec, pixels=pixels, options={}, metadata=tag)
    for ground in (WHITE, (0, 0, 0)):
        frames, _ = read_video(tmp_path / name, ground=ground)
        assert np.abs(frames[2, 1, 1].astype(int) - ground).max() <= 2
        assert np.abs(frames[2, 32, 32].astype(int) - (220, 30, 30)).max() <= 6


def test_a_folder_of_frames_and_a_reference_show_the_ground_they_are_given(tmp_path: Path) -> None:
    Image.fromarray(disc((0, 255, 0))).save(tmp_path / "0.png")
    assert tuple(read_video(tmp_path)[0][0, 0, 0]) == WHITE
    for path in (tmp_path, tmp_path / "0.png"):
        for name, value in (("white", 1.0), ("#000000", -1.0)):
            assert read_clip(path, height=32, width=32, ground=name)[:, 0, 0, 0].tolist() == [value] * 3


def test_a_ground_is_a_colour() -> None:
    assert parse_colour("rgb(1, 2, 3)") == (1, 2, 3)
    for text in ("transparent-ish", "#ff000080", ""):
        with pytest.raises(ValueError, match="a colour such as white or #808080 is wanted, got"):
            parse_colour(text)


# Pictures' profiles and depths


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_wide_colours_become_those_of_srgb(tmp_path: Path, mode: str) -> None:
    wide = profile(*DISPLAY_P3)
    shown = Image.fromarray(quarters())
    srgb = ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(shown, srgb, ImageCms.ImageCmsProfile(io.BytesIO(wide)), renderingIntent=1)
    assert stored is not None and not near(np.array(stored), within=8)  # what is read if the profile is not
    (stored.quantize(8) if mode == "P" else stored.convert(mode)).save(tmp_path / "a.png", icc_profile=wide)
    assert near(read_image(tmp_path / "a.png")[0], within=2)


def test_a_profile_that_is_srgbs_own_changes_no_bit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=own)
    assert np.array_equal(read_image(tmp_path / "a.png")[0], noise)


@pytest.mark.parametrize("broken", [b"no profile", profile(*DISPLAY_P3)[:200]])
def test_a_profile_that_cannot_be_used_is_told(tmp_path: Path, broken: bytes) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png", icc_profile=broken)
    with pytest.warns(UserWarning, match=r"the colour profile of .*a\.png cannot be used .*taken for sRGB's"):
        assert middles(read_image(tmp_path / "a.png")[0]) == list(QUARTERS)


def test_a_profile_of_another_mode_is_told(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "a.png", icc_profile=profile(*DISPLAY_P3))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert (read_image(tmp_path / "a.png") == 77).all()


def test_floats_from_nought_to_one_are_scaled_and_others_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0, :, 0].tolist() == [0, 128, 255]
    for values in ([[0, 200.0]], [[-0.5, 0]], [[float("nan"), 0]]):
        Image.fromarray(np.array(values, np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=r"a\.tif cannot be read as a picture: its values go from .*0 \(black\)"):
            read_image(tmp_path / "a.tif")


def test_whole_numbers_without_a_known_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535, 257 * 9]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0, :, 0].tolist() == [0, 255, 9]
    for values in ([[0, 65536]], [[-1, 9]], [[0, 255]]):
        Image.fromarray(np.array(values, np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=r"whole numbers of 32 bits .* save it with 8 or 16 bits"):
            read_image(tmp_path / "a.tif")


# Films' matrices


def _hd() -> list[Frames]:
    return [quarters(720, 1280)]


def test_hd_that_does_not_say_is_read_as_players_do(tmp_path: Path) -> None:
    film(tmp_path / "hd.mp4", _hd(), matrix=1, options={"qp": "4", "preset": "ultrafast"})
    assert near(read_video(tmp_path / "hd.mp4")[0][0])
    film(tmp_path / "sd.mp4", [quarters()], matrix=6)
    assert near(read_video(tmp_path / "sd.mp4")[0][0])


@pytest.mark.parametrize("matrix", [1, 6])
def test_a_film_that_says_its_matrix_is_believed(tmp_path: Path, matrix: int) -> None:
    for frames in (_hd(), [quarters()]):
        tags = {"colorspace": matrix, "color_range": 1}
        film(tmp_path / "a.mp4", frames, matrix=matrix, tags=tags, options={"qp": "4", "preset": "ultrafast"})
        assert near(read_video(tmp_path / "a.mp4")[0][0])


# HDR


@pytest.mark.parametrize(
    ("transfer", "signal", "grey"),
    [
        # BT.2408, table 1: grey of 18% is 26 cd/m2 and paper 203; from there BT.2390's curve and sRGB's.
        ("PQ", 0.0, 0), ("PQ", 0.38, 100), ("PQ", 0.58, 229), ("PQ", 0.7518, 255), ("PQ", 1.0, 255),
        ("HLG", 0.0, 0), ("HLG", 0.38, 101), ("HLG", 0.75, 229), ("HLG", 1.0, 255),
    ],
)  # fmt: skip
def test_hdr_becomes_the_greys_of_the_standards(tmp_path: Path, transfer: str, signal: float, grey: int) -> None:
    read = _deep(tmp_path, [signal] * 3, {"color_trc": {"PQ": 16, "HLG": 18}[transfer]})
    assert np.abs(read.astype(int) - grey).max() <= 2


def _deep(folder: Path, signal: list[float], tags: dict[str, int]) -> Frames:
    """A film of one colour in 10 bits, as it is read [3]."""
    # With the matrix of BT.709, which FFmpeg writes exactly; the transfer and the primaries are what is tried.
    path, whole = folder / "a.mp4", np.full((48, 64, 3), np.round(np.array(signal) * 65535), np.uint16)
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=24, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv444p10le"
        for name, value in {"colorspace": 1, **tags}.items():
            setattr(stream.codec_context, name, value)
        raw = av.VideoFrame.from_ndarray(whole, format="rgb48le")
        coded = raw.reformat(format="yuv444p10le", dst_colorspace=1)
        coded.colorspace = 1
        target.mux(stream.encode(coded))
        target.mux(stream.encode())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = read_video(path)[0][0, 24, 32]
    text = [str(one.message) for one in told]
    if tags.get("color_trc") in (16, 18):
        assert len(text) == 1 and "a.mp4 is HDR: its" in text[0]
    else:
        assert text == [] or (len(text) == 1 and "does not say whether it is HDR" in text[0])
    return read


def test_highlights_of_colour_keep_their_hue() -> None:
    """A red of 1000 cd/m2 over 153 becomes 203, and the others by as much less; clipping would make it pink."""
    deep = np.round(np.array([[[0.7518, 0.55, 0.55]]]) * 65535).astype(np.uint16)
    assert in_srgb(deep, Tone("PQ", "BT.709", told=True)).tolist() == [[[255, 108, 108]]]


@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_films_keep_their_greys_and_become_srgb(tmp_path: Path, primaries: int) -> None:
    for tags in ({"color_primaries": primaries, "color_trc": 1}, {"color_primaries": primaries}):
        assert np.abs(_deep(tmp_path, [0.4] * 3, tags).astype(int) - 102).max() <= 1
        # Red of sRGB in these primaries, linear (BT.2087, table 2; SMPTE EG 432-1), in sRGB's numbers: it comes back.
        light = np.array({9: [0.6274, 0.0691, 0.0164], 12: [0.8225, 0.0332, 0.0171]}[primaries])
        red = 1.055 * light ** (1 / 2.4) - 0.055
        assert np.abs(_deep(tmp_path, red.tolist(), tags).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(("kind", "key"), [(0, b"\x40\x20"), (2, b"\x40\x20" * 3)])
def test_a_colour_key_of_sixteen_bits_shows_the_ground(tmp_path: Path, kind: int, key: bytes) -> None:
    """Written out, since Pillow writes no such file: above the key's colour, below another."""
    values = np.repeat(np.array([[0x4020], [0x80FF]], ">u2"), 1 if kind == 0 else 3, axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 1, 2, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    above, below = read_image(tmp_path / "a.png")[0, :, 0, 0].tolist()
    assert above == 255 and below == pytest.approx(0x80FF / 257, abs=1)


def test_sixteen_bits_are_rounded(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0, 0].tolist() == [156, 156, 156]  # 155.64


def test_the_picture_beside_an_animation_is_no_part_of_the_clip(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8, 8), (60 * k, 0, 0)) for k in range(3)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=100, default_image=True)
    frames, fps = read_video(tmp_path / "a.png")
    assert frames[:, 0, 0, 0].tolist() == [60, 120] and fps == pytest.approx(10)
