"""Results taken apart."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from videoaccel.outside.order import check_ending
from videoaccel.outside.outputs import as_frames, as_sound, medium_of, sampling_rate, taken

PICTURES = [Image.new("RGB", (6, 4), (k, 0, 0)) for k in range(3)]
CLIP = np.stack([np.asarray(picture) for picture in PICTURES]) / 255


@pytest.mark.parametrize(
    "value",
    [
        [PICTURES],
        CLIP[None],
        torch.as_tensor(CLIP[None]).permute(0, 1, 4, 2, 3),
        [list(CLIP)],
        [torch.as_tensor(CLIP).permute(0, 3, 1, 2)],
        PICTURES,
    ],
    ids=["pil", "array", "tensor", "list of arrays", "list of tensors", "no batch"],
)
def test_a_clip_in_every_form(value: Any) -> None:
    frames = as_frames(value, moving=True)
    assert frames.dtype == np.uint8 and frames.shape == (3, 4, 6, 3) and list(frames[:, 0, 0, 0]) == [0, 1, 2]


def test_pictures_and_grey_ones() -> None:
    assert as_frames(PICTURES[:1], moving=False).shape == as_frames(CLIP[:1], moving=False).shape == (1, 4, 6, 3)
    assert as_frames(CLIP[:1, ..., :1], moving=False).shape == (1, 4, 6, 3)
    assert as_frames(CLIP[0], moving=False).shape == (1, 4, 6, 3)


def test_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no picture: values from"):
        as_frames(5 * CLIP + 3, moving=False)
    with pytest.raises(ValueError, match=r"no picture: \[4, 6, 16\]; is it a latent"):
        as_frames(np.zeros((1, 4, 6, 16)), moving=False)
    with pytest.raises(FloatingPointError, match="not-a-number"):
        as_frames(np.full_like(CLIP, np.nan), moving=False)
    with pytest.raises(ValueError, match="one clip was asked for, and 2 came out"):
        as_frames([PICTURES, PICTURES], moving=True)
    with pytest.raises(ValueError, match="cannot be written: prior_embeds"):
        taken({"prior_embeds": 3})


def test_sound() -> None:
    assert as_sound(np.zeros((1, 5))).shape == as_sound(torch.zeros(1, 1, 5)).shape == (1, 5)
    assert as_sound(torch.full((1, 2, 5), 3.0)).max() == 1
    with pytest.raises(ValueError, match="one sound was asked for, and 2"):
        as_sound(np.zeros((2, 1, 5)))
    with pytest.raises(FloatingPointError, match="not-a-number"):
        as_sound(np.full((1, 5), np.nan))


def test_pictures_and_sound_together() -> None:
    both = taken({"frames": CLIP[None], "audio": torch.zeros(1, 2, 8)})
    assert both.frames is not None and both.sound is not None and both.sound.shape == (2, 8)


def test_where_a_sampling_rate_stands() -> None:
    vocoder = SimpleNamespace(config={"sampling_rate": 16000})
    assert sampling_rate(SimpleNamespace(vocoder=vocoder, vae=SimpleNamespace(config={"sampling_rate": 5}))) == 16000
    assert sampling_rate(SimpleNamespace(vae=SimpleNamespace(config={}, sampling_rate=44100))) == 44100
    assert sampling_rate(SimpleNamespace(vae=None)) is None


def test_classes_tell_what_they_make() -> None:
    made = {
        name: medium_of(getattr(diffusers, name))
        for name in (
            "WanPipeline",
            "LattePipeline",
            "LTX2Pipeline",
            "FluxPipeline",
            "DiTPipeline",
            "StableAudioPipeline",
        )
    }
    assert list(made.values()) == ["clip", "clip", "clip", "picture", "picture", "sound"]


def test_files_that_cannot_hold_it() -> None:
    check_ending("a.mp4", "clip")
    check_ending("a.wav", "sound")
    check_ending("frames/", "picture")
    for output, medium, message in (
        ("a.mp4", "sound", "cannot hold sound; write .wav"),
        ("a.wav", "clip", "can hold sound only"),
        ("a.txt", "picture", "its name must end in"),
    ):
        with pytest.raises(ValueError, match=message):
            check_ending(output, medium)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one frame only, not 4"):
        check_ending("a.png", "clip", frames=4)
