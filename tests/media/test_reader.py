import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import render, transcode, write
from videoaccel.media.reader import FOLDER_FPS, fit, is_image, read_image, read_video, to_uint8

# Reading


def test_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    frame = render(1)
    Image.fromarray(frame[0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), frame)
    assert np.array_equal(read_image(str(tmp_path / "a.png")), frame)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(render(1)[0]).convert(mode)
    image.save(path)
    assert np.array_equal(read_image(path)[0], np.array(image.convert("RGB")))  # nothing is transparent


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[0, :, :, 1], np.round(grey / 257))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    frame = render(1)[0]
    Image.fromarray(frame).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png")[0], np.rot90(frame, -1))


def test_is_image_goes_by_the_name() -> None:
    assert [is_image(name) for name in ("a.png", "b/a.JPEG", "a.gif", "a.mp4", "a", "png")] == [True, True] + [
        False
    ] * 4


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    clip = render(11)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"shot{number}.png")  # shot10 comes after shot9
    (tmp_path / "notes.txt").write_text("not a frame")
    frames, fps = read_video(tmp_path)
    assert np.array_equal(frames, clip)
    assert fps == FOLDER_FPS
    assert np.array_equal(read_video(tmp_path, max_frames=3)[0], clip[:3])


def test_a_folder_of_frames_of_different_sizes_is_refused(tmp_path: Path) -> None:
    for number, width in enumerate((48, 40)):
        Image.fromarray(render(1, width=width)[0]).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"1\.png is 32x40, the frames before it 32x48"):
        read_video(tmp_path)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no pictures"):
        read_video(tmp_path)


def test_reading_stops_early_when_told(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", render(9))
    assert len(read_video(tmp_path / "a.mp4", max_frames=4)[0]) == 4
    with pytest.raises(ValueError, match="max_frames must be at least 1; got 0"):
        read_video(tmp_path / "a.mp4", max_frames=0)


@pytest.mark.parametrize("read", [read_image, read_video])
def test_missing_and_empty_files(tmp_path: Path, read: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        read(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4 is empty"):
        read(tmp_path / "empty.mp4")


@pytest.mark.parametrize(("read", "name"), [(read_image, "a.png"), (read_video, "a.mp4")])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, name: str
) -> None:
    """Whoever runs the tests may be root, who may read everything."""
    write(tmp_path / name, render(1))

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=rf"{re.escape(name)} may not be read by this user$"):
        read(tmp_path / name)


def test_a_url_is_not_fetched() -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_video("http://127.0.0.1:9/clip.mp4")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_damaged_images(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"not an image at all", data[:10]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is not a readable picture"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("b.mp4", "libx264", {"movflags": "+faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_clips_of_other_programs_whole_and_cut_short(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    transcode(path, render(16), codec, **options)
    frames, fps = read_video(path)
    assert frames.shape == (16, 32, 48, 3)
    assert fps == pytest.approx(24)
    data = path.read_bytes()
    for part in (0.5, 0.8):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is not a (readable|whole) video"):
            read_video(path)


def test_a_gif_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "a.gif", render())
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) // 2].rstrip(b"\0;"))
    with pytest.raises(ValueError, match=r"a\.gif is not a whole video: the file was cut short"):
        read_video(tmp_path / "a.gif")


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello" * 999)
    with pytest.raises(ValueError, match=r"a\.mp4 is not a readable video") as caught:
        read_video(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value) and "Errno" not in str(caught.value)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4 .*it has no video stream, only sound"):
        read_video(tmp_path / "sound.mp4")


# Fitting


@pytest.mark.parametrize(
    ("source", "size", "still", "start"),
    [
        ((10, 23), (10, 20), True, (0, 2)),  # 3 columns too many: round(1.5) is 2 in a picture
        ((10, 23), (10, 20), False, (0, 1)),  # and 1 in a clip
        ((10, 25), (10, 20), True, (0, 2)),  # round(2.5) is 2
        ((10, 25), (10, 20), False, (0, 2)),
        ((13, 20), (10, 20), True, (2, 0)),
        ((13, 20), (10, 20), False, (1, 0)),
        ((10, 20), (10, 20), False, (0, 0)),
    ],
)
def test_fit_cuts_the_middle(
    source: tuple[int, int], size: tuple[int, int], still: bool, start: tuple[int, int]
) -> None:
    """No resizing here, so the values are exact."""
    clip = np.random.default_rng(0).integers(0, 256, (2, *source, 3), np.uint8)
    top, left = start
    cut = clip[:, top : top + size[0], left : left + size[1]]
    expected = torch.from_numpy(cut).permute(3, 0, 1, 2).float() / 127.5 - 1
    fitted = fit(clip, *size, still=still)
    assert fitted.dtype == torch.float32
    assert torch.allclose(fitted, expected, atol=1e-6)
    assert fitted.min() >= -1 and fitted.max() <= 1


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (50, 90), (7, 7)])
def test_fit_resizes_pictures_as_pillow_does(size: tuple[int, int]) -> None:
    frame = render(1, 33, 47)
    height, width = size
    cover = (height, round(47 * (height / 33))) if height / 33 > width / 47 else (round(33 * (width / 47)), width)
    resized = np.array(Image.fromarray(frame[0]).resize(cover[::-1], Image.Resampling.BICUBIC))
    top, left = round((cover[0] - height) / 2), round((cover[1] - width) / 2)
    expected = resized[top : top + height, left : left + width]
    assert np.array_equal(to_uint8(fit(frame, height, width, still=True))[0], expected)


def test_fit_resizes_clips_without_antialias() -> None:
    """Half the size: bilinear at the centres of 2x2 pixels is their mean; a third: the middle one of 3x3."""
    clip = np.random.default_rng(0).integers(0, 256, (3, 12, 18, 3), np.uint8)
    half = clip.reshape(3, 6, 2, 9, 2, 3).astype(np.float32).mean(axis=(2, 4)) / 127.5 - 1
    assert np.allclose(fit(clip, 6, 9, still=False).permute(1, 2, 3, 0), half, atol=1e-5)
    third = clip[:, 1::3, 1::3].astype(np.float32) / 127.5 - 1
    assert np.allclose(fit(clip, 4, 6, still=False).permute(1, 2, 3, 0), third, atol=1e-5)


def test_fit_always_covers() -> None:
    for h, w, height, width in ((240, 426, 144, 256), (1, 7, 30, 3), (997, 3, 2, 64), (480, 854, 426, 240)):
        frame = np.zeros((1, h, w, 3), np.uint8)
        for still in (True, False):
            assert fit(frame, height, width, still=still).shape == (3, 1, height, width)


def test_fit_refuses_what_is_no_clip() -> None:
    with pytest.raises(ValueError, match=r"float64 \[1, 4, 4, 3\]"):
        fit(np.zeros((1, 4, 4, 3)), 4, 4, still=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"uint8 \[4, 4, 3\]"):
        fit(np.zeros((4, 4, 3), np.uint8), 4, 4, still=True)
    with pytest.raises(ValueError, match="at least 1; got 0x4"):
        fit(np.zeros((1, 4, 4, 3), np.uint8), 0, 4, still=True)


def test_to_uint8_clips_adds_a_half_and_truncates() -> None:
    values = torch.tensor([-9.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.0, 0.5, 1.0, 9.0, torch.inf])
    x = values.view(1, 1, 1, -1).expand(3, 2, 1, -1)
    expected = np.array([0, 0, 0, 1, 128, 191, 255, 255, 255])
    frames = to_uint8(x)
    assert frames.shape == (2, 1, 9, 3)
    assert frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert (frames == expected[:, None]).all()
    assert to_uint8(x[None].repeat(4, 1, 1, 1, 1)).shape == (4, 2, 1, 9, 3)
    assert x.min() == -9  # left as it was


def test_to_uint8_gives_back_what_fit_took() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for still in (True, False):
        assert np.array_equal(to_uint8(fit(clip, 8, 8, still=still)), clip)


def test_to_uint8_computes_in_float32() -> None:
    x = torch.linspace(-1, 1, 256).bfloat16().view(1, 1, 1, -1).expand(3, 1, 1, -1)
    assert np.array_equal(to_uint8(x), to_uint8(x.float()))


def test_to_uint8_refuses_nan_and_other_shapes() -> None:
    x = torch.zeros(3, 1, 2, 2)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of the clip's 12 values are NaN"):
        to_uint8(x)
    with pytest.raises(ValueError, match=r"got \[1, 2, 2, 3\]"):
        to_uint8(torch.zeros(1, 2, 2, 3))
