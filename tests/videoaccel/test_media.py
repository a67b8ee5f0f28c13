import builtins
import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videoaccel import files, media
from videoaccel.contact_sheet import contact_sheet, evenly_spaced
from videoaccel.files import atomic_file, atomic_write_bytes, atomic_write_text
from videoaccel.media import FOLDER_FPS, Frames, Writer, check_writable, fit, is_image, read_image, read_video, to_uint8

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
    assert np.array_equal(read_image(path)[0], np.array(image.convert("RGB")))


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[0, :, :, 1], grey // 257)


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


@pytest.mark.skipif(not hasattr(av.VideoFrame, "rotation"), reason="this PyAV does not tell")
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_clips_are_turned_upright(tmp_path: Path, quarters: int) -> None:
    """The matrix in the track header is what telephones write; quarters are clockwise."""
    clip = render(3, 32, 48)
    write(tmp_path / "a.mp4", clip)
    data = (tmp_path / "a.mp4").read_bytes()
    cos, sin = (round(f(quarters * np.pi / 2)) << 16 for f in (np.cos, np.sin))
    rows = [(1 << 16, 0, 0), (0, 1 << 16, 0)], [(cos, sin, 0), (-sin, cos, 0)]
    old, new = (b"".join(n.to_bytes(4, "big", signed=True) for row in matrix for n in row) for matrix in rows)
    place = data.index(old, data.index(b"tkhd"))
    (tmp_path / "a.mp4").write_bytes(data[:place] + new + data[place + len(old) :])
    frames, _ = read_video(tmp_path / "a.mp4")
    assert psnr(frames, np.rot90(clip, -quarters, axes=(1, 2))) > 30


@pytest.mark.parametrize("read", [read_image, read_video])
def test_missing_and_empty_files(tmp_path: Path, read: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        read(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4 is empty"):
        read(tmp_path / "empty.mp4")


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
    with pytest.raises(ValueError, match=r"sound\.mp4 .*it has no picture"):
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


# Writing


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("size", [(32, 48), (64, 36), (2, 2)])
def test_mp4_comes_back(tmp_path: Path, frames: int, size: tuple[int, int]) -> None:
    clip = render(frames, *size)
    write(tmp_path / "a.mp4", clip)
    found, fps = read_video(tmp_path / "a.mp4")
    assert fps == 24
    if min(size) > 2:
        assert psnr(found, clip) > 30
    assert found.shape == clip.shape


def test_mp4_of_odd_size_gets_a_copied_edge(tmp_path: Path) -> None:
    clip = render(5, 33, 47)
    write(tmp_path / "a.mp4", clip)
    found, _ = read_video(tmp_path / "a.mp4")
    assert psnr(found, np.pad(clip, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > 30


def test_mp4_plays_everywhere_and_says_its_colours(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", render())
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context: Any = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 9)
        assert (context.colorspace, context.color_range, context.color_primaries) == (6, 1, 1)


def test_mp4_keeps_colours(tmp_path: Path) -> None:
    colours = [(220, 30, 30), (30, 200, 60), (40, 60, 230), (255, 255, 255), (0, 0, 0), (250, 220, 40)]
    clip = np.array(colours, np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    write(tmp_path / "a.mp4", clip)
    error = read_video(tmp_path / "a.mp4")[0].astype(int) - clip
    assert abs(error).max() <= 4


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
@pytest.mark.parametrize("fps", [8, 23.976, 30])
def test_frame_rates_come_back(tmp_path: Path, ending: str, fps: float) -> None:
    write(tmp_path / f"a{ending}", render(12), fps=fps)
    # A gif counts in hundredths of a second.
    assert read_video(tmp_path / f"a{ending}")[1] == pytest.approx(fps, rel=0.02 if ending == ".gif" else 1e-9)


@pytest.mark.parametrize("frames", [1, 9])
def test_gif_comes_back_and_repeats_for_ever(tmp_path: Path, frames: int) -> None:
    clip = render(frames, 33, 47)
    write(tmp_path / "a.gif", clip)
    found, _ = read_video(tmp_path / "a.gif")
    assert psnr(found, clip) > 30
    with Image.open(tmp_path / "a.gif") as image:
        assert (getattr(image, "n_frames", 1), image.info["loop"]) == (frames, 0)


def test_gif_of_few_colours_loses_nothing(tmp_path: Path) -> None:
    clip = np.zeros((3, 8, 8, 3), np.uint8)
    clip[1, :4] = (255, 0, 0)
    clip[2, 4:] = (0, 0, 255)
    write(tmp_path / "a.gif", clip)
    assert np.array_equal(read_video(tmp_path / "a.gif")[0], clip)


def test_png_holds_one_frame_exactly(tmp_path: Path) -> None:
    clip = render(2, 33, 47)
    write(tmp_path / "a.png", clip[:1])
    assert np.array_equal(read_image(tmp_path / "a.png"), clip[:1])
    with pytest.raises(ValueError, match=r"a \.png holds one frame only; write \.mp4, \.gif, or a folder"):
        write(tmp_path / "b.png", clip)
    assert contents(tmp_path) == ["a.png"]


def test_folder_holds_frames_exactly(tmp_path: Path) -> None:
    clip = render(5, 33, 47)
    write(f"{tmp_path}/a/", clip)
    assert contents(tmp_path / "a") == [f"{number:05d}.png" for number in range(5)]
    assert np.array_equal(read_video(tmp_path / "a")[0], clip)


def test_folder_of_frames_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(f"{tmp_path}/a/", render(5))
    write(f"{tmp_path}/a/", render(2))
    assert contents(tmp_path) == ["a"]
    assert len(contents(tmp_path / "a")) == 2


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    for attempt in (lambda: write(f"{tmp_path}/a/", render(2)), lambda: check_writable(f"{tmp_path}/a/")):
        with pytest.raises(FileExistsError, match=r"it holds 'thesis\.txt', not a frame"):
            attempt()
    (tmp_path / "b").touch()
    with pytest.raises(FileExistsError, match="b is not a folder"):
        check_writable(f"{tmp_path}/b/")
    assert contents(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
@pytest.mark.parametrize("size", [(32, 48), (49, 90)])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    """However they come in chunks, and whatever was in memory before (x264 has been seen to look)."""
    clip = render(1 if ending == ".png" else 9, *size)
    found = set()
    for chunk in (1, 2, 3, 4, 9):
        garbage = [np.full(1 << bits, 27 * chunk, np.uint8) for bits in range(10, 22)]
        del garbage
        write(f"{tmp_path}/a{ending}", clip, chunk=chunk)
        path = tmp_path / ("a" if ending == "/" else f"a{ending}")
        found.add((path / "00003.png" if ending == "/" else path).read_bytes())
    assert len(found) == 1


class Stop(BaseException):
    """Like KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
@pytest.mark.parametrize("error", [RuntimeError, Stop, KeyboardInterrupt])
def test_an_exception_on_the_way_leaves_nothing(tmp_path: Path, ending: str, error: type[BaseException]) -> None:
    for wrote in (0, 1):
        with pytest.raises(error), Writer(f"{tmp_path}/a{ending}", fps=24) as writer:
            if wrote:
                writer.write(render(1))
            assert len(contents(tmp_path)) == 1  # a temporary name
            assert contents(tmp_path) != ["a" + ending.strip("/")]
            raise error
        assert contents(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_exception_on_the_way_keeps_the_old_clip(tmp_path: Path, ending: str) -> None:
    path = f"{tmp_path}/a{ending}"
    write(path, render(3))
    before = read_video(path)[0]
    with pytest.raises(RuntimeError), Writer(path, fps=24) as writer:
        writer.write(render(9))
        raise RuntimeError
    assert np.array_equal(read_video(path)[0], before)
    assert len(contents(tmp_path)) == 1


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write(tmp_path / "a.gif", render(1))
    finally:
        os.umask(mask)
    assert (tmp_path / "a.gif").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_no_frames_is_an_error(tmp_path: Path, ending: str) -> None:
    with (
        pytest.raises(ValueError, match="no frames were written to"),
        Writer(f"{tmp_path}/a{ending}", fps=24) as writer,
    ):
        writer.write(render(1)[:0])
    assert contents(tmp_path) == []


def test_frames_must_fit_together(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="frames of 32x48 pixels so far; got 32x50"),
        Writer(tmp_path / "a.mp4", fps=24) as writer,
    ):
        writer.write(render(2))
        writer.write(render(2, width=50))
    for wrong in (render(1)[0], render(1).astype(np.float32), render(1)[..., :1], render(1)[:, :0]):
        with (
            pytest.raises(ValueError, match=r"frames must be uint8 \[t, H, W, 3\]; got"),
            Writer(tmp_path / "a.mp4", fps=24) as writer,
        ):
            writer.write(wrong)  # type: ignore[arg-type]
    assert contents(tmp_path) == []


def test_a_size_that_the_encoder_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames of 2x20000 pixels cannot be encoded"):
        write(tmp_path / "a.mp4", np.zeros((1, 2, 20000, 3), np.uint8))
    assert contents(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mov", "a", "", "a.mp4/..", "/", "./", "../"])
def test_unknown_endings_say_what_works(tmp_path: Path, name: str) -> None:
    for attempt in (check_writable, lambda path: Writer(path, fps=24)):
        with pytest.raises(ValueError, match=r"must end in \.mp4, \.gif, \.png, or in '/' for a folder"):
            attempt(f"{tmp_path}/{name}" if name[:1].isalpha() else name)


def test_gif_cannot_be_faster_than_its_clock(tmp_path: Path) -> None:
    write(tmp_path / "a.gif", render(5), fps=100)
    assert read_video(tmp_path / "a.gif")[1] == 100
    with pytest.raises(ValueError, match="fps must be above 0 and at most 100; got 120"):
        Writer("a.gif", fps=120)


@pytest.mark.parametrize(("fps", "crf"), [(0, 16), (-1, 16), (float("nan"), 16), (1e6, 16), (24, 52), (24, -1)])
def test_numbers_out_of_range(fps: float, crf: int) -> None:
    with pytest.raises(ValueError, match="fps must be" if crf == 16 else "crf must be between 0 and 51"):
        Writer("a.mp4", fps=fps, crf=crf)


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_missing_folder(tmp_path: Path, ending: str) -> None:
    path = f"{tmp_path}/none/a{ending}"
    for attempt in (lambda: check_writable(path), lambda: write(path, render(1))):
        with pytest.raises(FileNotFoundError) as caught:
            attempt()
        assert str(caught.value).endswith(f"the folder {tmp_path}/none does not exist; make it first")
        assert caught.value.errno == errno.ENOENT


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "a.mp4")


def test_a_folder_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a folder has that name; for frames in a folder, end it in '/'"):
        check_writable(tmp_path / "a.mp4")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, code: int) -> None:
    """The tests may run as root, whom nothing is read-only to."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    path = f"{tmp_path}/a{ending}"
    for attempt in (lambda: check_writable(path), lambda: write(path, render(1))):
        with pytest.raises(
            PermissionError, match=r"^cannot write .* is read-only for this user; choose another folder$"
        ):
            attempt()


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.png", "a/"):
        check_writable(f"{tmp_path}/{name}")
    assert contents(tmp_path) == []


class SmallDisk(io.FileIO):
    """A file on a disk that is full after some bytes."""

    room = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SmallDisk]]:
    def small_open(path: Path, mode: str) -> Any:
        return io.BufferedWriter(SmallDisk(path, mode.replace("b", "")), buffer_size=64)

    monkeypatch.setattr(files, "open", small_open, raising=False)
    yield SmallDisk
    SmallDisk.room = 0


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".png"])
def test_a_full_disk(
    tmp_path: Path, small_disk: type[SmallDisk], ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it fills up, down to the last byte, which FFmpeg writes when the file is closed."""
    clip = render(1 if ending == ".png" else 9)
    path = tmp_path / f"a{ending}"
    small_disk.room = 1 << 20
    write(path, clip)
    whole = path.read_bytes()
    path.write_bytes(b"old")
    for room in (0, 40, len(whole) // 2, len(whole) - 1):
        small_disk.room = room
        with pytest.raises(OSError, match=r"^cannot write .*: the disk of .* is full; .* removed$") as caught:
            write(path, clip)
        assert caught.value.errno == errno.ENOSPC
        assert contents(tmp_path) == [path.name]
        assert path.read_bytes() == b"old"
    small_disk.room = len(whole)
    write(path, clip)
    assert path.read_bytes() == whole
    assert "exception" not in capfd.readouterr().err  # PyAV prints what is raised in its callbacks


def test_a_full_disk_while_writing_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def full(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if str(path).endswith("00002.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(OSError, match="is full"):
        write(f"{tmp_path}/a/", render(5))
    assert contents(tmp_path) == []


def test_an_interrupt_inside_the_encoder_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may arrive while FFmpeg calls back to write bytes; PyAV alone would lose it at the end of a file."""

    class Interrupted(io.FileIO):
        def write(self, _: Any) -> int:
            raise Stop

    monkeypatch.setattr(files, "open", lambda path, mode: Interrupted(path, mode.replace("b", "")), raising=False)
    with pytest.raises(Stop):
        write(tmp_path / "a.mp4", render(2))
    assert contents(tmp_path) == []


# Sidecars


def test_atomic_text_and_bytes(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.json", "größer\n")
    assert (tmp_path / "a.json").read_bytes() == "größer\n".encode()
    atomic_write_bytes(tmp_path / "a.json", b"\0\1")
    assert (tmp_path / "a.json").read_bytes() == b"\0\1"
    assert contents(tmp_path) == ["a.json"]


def test_atomic_file_keeps_the_old_one_on_failure(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(Stop), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        raise Stop
    assert (tmp_path / "a").read_text() == "old"
    assert contents(tmp_path) == ["a"]


def test_sidecar_errors_are_worded_too(tmp_path: Path, small_disk: type[SmallDisk]) -> None:
    with pytest.raises(OSError, match="is full"):
        atomic_write_text(tmp_path / "a.json", "x" * 1000)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        atomic_write_text(tmp_path / "none" / "a.json", "")
    small_disk.room = 1 << 20
    with pytest.raises(OSError, match="the name is too long"):
        atomic_write_text(tmp_path / ("a" * 300), "")
    long = "ä" * 120 + ".json"
    atomic_write_text(tmp_path / long, "fits")
    assert contents(tmp_path) == [long]


# Contact sheets


def test_evenly_spaced_has_first_and_last() -> None:
    for total, limit in ((51, 16), (2, 16), (1, 4), (17, 17), (100, 2)):
        numbers = evenly_spaced(total, limit)
        assert len(numbers) == min(total, limit) == len(set(numbers))
        assert numbers[0] == 0 and numbers[-1] == (total - 1 if limit > 1 else 0)


def test_contact_sheet_lays_frames_out_in_order() -> None:
    clip = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None, None].repeat(60, 1).repeat(80, 2).repeat(3, 3)
    sheet = contact_sheet(clip, columns=3, rows=2)
    assert sheet.size == (3 * 80 + 4, 2 * 60 + 2)
    middles = [sheet.getpixel((82 * column + 60, 62 * row + 45)) for row in range(2) for column in range(3)]
    assert middles == [(10 * number,) * 3 for number in evenly_spaced(25, 6)]
    assert sheet.getpixel((80, 30)) == sheet.getpixel((30, 60)) == (24, 24, 24)


def test_contact_sheet_numbers_its_frames() -> None:
    clip = np.full((25, 60, 80, 3), 128, np.uint8)
    tiles = [np.array(contact_sheet(clip[:1], numbers=[number]))[:24, :32] for number in (0, 1, 24)]
    assert not np.array_equal(tiles[0], tiles[1])
    for tile in tiles:
        assert tile.min() == 0 and tile.max() > 180  # light on dark, on a grey ground
        assert tile[-1, -1].tolist() == [128] * 3
    alone = contact_sheet(clip[[0, 8, 16, 24]], columns=2, rows=2, numbers=[0, 8, 16, 24])
    assert alone == contact_sheet(clip, columns=2, rows=2)


def test_contact_sheet_of_few_frames_is_small() -> None:
    assert contact_sheet(render(2), columns=4, rows=4).size == (2 * 48 + 2, 32)
    assert contact_sheet(render(5), columns=4, rows=4, scale=0.5).size == (4 * 26 - 2, 2 * 18 - 2)
    assert contact_sheet(render(1, 300, 200), scale=2).size == (400, 600)
    assert contact_sheet(render(1, 2, 2), scale=0.1).size == (1, 1)


def test_contact_sheet_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="not empty"):
        contact_sheet(render(1)[:0])
    for wrong in ({"columns": 0}, {"rows": 0}, {"scale": 0}):
        with pytest.raises(ValueError, match="must be at least 1 and scale above 0"):
            contact_sheet(render(1), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 numbers for 2 frames"):
        contact_sheet(render(2), numbers=[0, 1, 2])


def test_everything_is_had_from_one_place() -> None:
    assert all(hasattr(media, name) for name in media.__all__)
