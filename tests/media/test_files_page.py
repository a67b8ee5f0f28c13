"""docs/files.md promises nothing that no test holds; and the reported inputs are read as their README says."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.clips import render, write
from tests.media.odd_files import near
from tests.workshop import Workshop
from videoaccel.common.package import packaged
from videoaccel.common.picture_names import is_image
from videoaccel.eval.world import Scene
from videoaccel.eval.world import render as draw
from videoaccel.generation.references import References
from videoaccel.jobs.resolve import resolve
from videoaccel.media.reader import read_image, read_video, to_uint8
from videoaccel.media.second_reader import read_like_players
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.settings.generate import GenerateSettings

ROOT = Path(__file__).parents[2]
CASES = Path(os.environ.get("VIDEOACCEL_CASES", ROOT / "none"))


def test_every_line_of_the_page_names_its_test() -> None:
    rows = [line for line in (ROOT / "docs/files.md").read_text().splitlines() if line.startswith("| ")]
    held = [re.search(r"\| `(test_\w+)` \|$", row) for row in rows if not row.endswith("| test |")]
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(held) > 30 and all(found and found[1] in there for found in held)


def test_a_rate_may_be_a_fraction() -> None:
    assert GenerateSettings(fps="30000/1001").fps == 30000 / 1001  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fps: a number such as 24 or 30000/1001 is wanted, got '1/0'"):
        GenerateSettings(fps="1/0")  # type: ignore[arg-type]


def test_the_frame_rate_of_a_given_clip_is_not_taken(make: Workshop) -> None:
    """That of the clip is 12, the model's 8."""
    make.folder.mkdir(exist_ok=True)
    write(make.folder / "given.mp4", render(9), fps=12)
    assert resolve(make.settings(video=str(make.folder / "given.mp4"))).settings.fps == 8


def test_a_ground_is_checked_when_it_is_given() -> None:
    assert GenerateSettings(ground="#102030").ground == "#102030"
    with pytest.raises(ValueError, match=r"ground: a colour such as white or #808080 is wanted, got 'blank'"):
        GenerateSettings(ground="blank")


def test_a_first_picture_comes_back_as_it_was() -> None:
    """Of a single frame the VAE makes a latent that is another picture at the head of a clip: 25 dB in place of the 32
    that its own latents of the whole clip give, and more cannot be had of it."""
    vae = VideoAutoencoder.from_pretrained(packaged("assets/demo"), subfolder="vae")
    scene = Scene.parse("a red circle moves left on a dark blue background")
    frames = draw(scene, rng=np.random.default_rng(0), frames=1, side=64)
    picture = torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1
    found = {}
    with torch.inference_mode():
        rest = vae.encode(picture.expand(-1, 17, -1, -1)[None])[0]
        for whole in (False, True):
            (first,) = References((picture,), "0").encode(vae, None, whole=whole)  # type: ignore[arg-type]
            assert first.shape[1] == 1
            shown = vae.decode(torch.cat((first, rest[:, 1:]), dim=1)[None], 17)[0].clamp(-1, 1)
            error = (to_uint8(shown)[0].astype(float) - to_uint8(picture)[0]) ** 2
            found[whole] = 10 * np.log10(255**2 / error.mean())
        limit = to_uint8(vae.decode(rest[None], 17)[0].clamp(-1, 1))[0].astype(float) - to_uint8(picture)[0]
    best = 10 * np.log10(255**2 / (limit**2).mean())
    assert found[True] > best - 0.1 and found[True] > found[False] + 4


# The reported inputs, where they are

cases = pytest.mark.skipif(not CASES.is_dir(), reason="VIDEOACCEL_CASES names no folder with the reported inputs")


def _all(folder: str, *endings: str) -> list[Path]:
    return sorted(path for path in (CASES / folder).glob("*") if path.suffix in endings)


@cases
@pytest.mark.slow
def test_reported_transparency() -> None:
    for path in _all("alpha", ".png", ".webp", ".apng", ".gif", ".mov"):
        frame = (read_image(path) if is_image(path) else read_video(path)[0])[0].astype(int)
        assert (frame[4, 4] == 255).all() and np.abs(frame[128, 128] - (220, 30, 30)).max() <= 2, path


@cases
@pytest.mark.slow
def test_reported_pictures() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in _all("pictures", ".jpg", ".png", ".avif", ".jfif", ".webp"):
            assert is_image(path) and near(read_image(path)[0], within=2), path
    with pytest.raises(ValueError, match=r"grey32\.tif cannot be read as a picture"):
        read_image(CASES / "pictures" / "grey32.tif")


@cases
@pytest.mark.slow
def test_reported_heif() -> None:
    for path in _all("heic", ".heic", ".jpg"):
        for read in (read_image, lambda path: read_video(path)[0]):
            if importlib.util.find_spec("pillow_heif") is None:
                with pytest.raises(ValueError, match="is a picture in the format HEIC, which is not read here"):
                    read(path)
            else:
                frames = read(path)
                assert frames.shape == (1, 768, 1024, 3) and near(frames[0]), path


@cases
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* is read by PyAV")
def test_reported_films() -> None:
    readers = [read_video, read_like_players][: 2 if importlib.util.find_spec("decord") else 1]
    for read in readers:
        for path in _all("display", ".mp4", ".mkv"):
            frames = read(path)[0]
            assert frames.shape == (24, 96, 160, 3) and near(frames[0]), path
        for name in ("bt601-tagged", "bt709-tagged-hd", "bt709-untagged-hd", "hevc10"):
            assert near(read(CASES / "colour" / f"{name}.mp4")[0][0]), name
        with pytest.warns(UserWarning, match=r"hlg\.mp4 has the colours of BT\.2020 and does not say"):
            read(CASES / "colour" / "hlg.mp4")
        levels = {
            "plain.mp4": 0,
            "cover-first.mp4": 0,
            "cover-last.mp4": 0,
            "thumb-stream-first.mkv": 0,
            "trimmed.mp4": 12,
        }
        for name, first in {**levels, "trimmed.ts": 0, "joined-late.ts": 6}.items():
            found = read(CASES / "streams" / name)[0]
            expected = [round(8 * k * 255 / 219) for k in range(first, 24)]
            assert np.abs(found[:, 48, 80, 0].astype(int) - expected).max() <= 2, name
        with pytest.warns(UserWarning, match=r"lost-packets\.ts is damaged: 22 of about 24 frames"):
            assert len(read(CASES / "streams" / "lost-packets.ts")[0]) == 22
        with pytest.raises(ValueError, match="zero"):
            read(CASES / "streams" / "zero.mp4")
