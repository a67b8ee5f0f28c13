import os
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import ENDINGS, contents, psnr, render, write
from tests.disks import Stop
from videoaccel.media.reader import read_image, read_video
from videoaccel.media.writer import Writer, check_writable


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
@pytest.mark.parametrize("fps", [8, 12.5, 30])
def test_frame_rates_come_back(tmp_path: Path, ending: str, fps: float) -> None:
    write(tmp_path / f"a{ending}", render(12), fps=fps)
    # A gif counts in hundredths of a second.
    assert read_video(tmp_path / f"a{ending}")[1] == pytest.approx(fps, rel=0.02 if ending == ".gif" else 1e-9)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (59.94, Fraction(60000, 1001)),
        (Fraction(30000, 1001), Fraction(30000, 1001)), (24, Fraction(24)), (29.5, Fraction(59, 2)),
        (15, Fraction(15)), (7.5, Fraction(15, 2)),
    ],
)  # fmt: skip
def test_rates_of_ntsc_are_written_as_they_are_meant(tmp_path: Path, fps: Any, rate: Fraction) -> None:
    with Writer(tmp_path / "a.mp4", fps=fps) as writer:
        writer.write(render(2))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == rate


def test_mp4_plays_while_it_loads(tmp_path: Path) -> None:
    """The table of contents stands before the frames, and what it says of their places is true."""
    write(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8))
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert len(read_video(tmp_path / "a.mp4")[0]) == 30 and contents(tmp_path) == ["a.mp4"]


def test_a_gif_that_browsers_play_slowly_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"a\.gif has 60 frames per second, and browsers play a \.gif above 50 slowly"):
        Writer(tmp_path / "a.gif", fps=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Writer(tmp_path / "a.gif", fps=50)
        Writer(tmp_path / "a.mp4", fps=60)


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
