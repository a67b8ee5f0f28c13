"""What is given and could not take effect is refused before a model is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.workshop import Workshop
from videoaccel.jobs import parts
from videoaccel.jobs.resolve import resolve
from videoaccel.media.reader import read_image, read_video
from videoaccel.settings.layers import Layer, merge


@pytest.fixture
def refused(pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Expects that settings are refused, with pictures a.png and b.png and an empty file clip.mp4 to read."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(name)
    Path("clip.mp4").touch()
    Path("frames").mkdir()

    def check(message: str, **values: Any) -> None:
        settings = merge([Layer({"prompt": "a", "model": str(pipeline_folder), **values})])
        with pytest.raises(ValueError, match=message):
            resolve(settings)

    return check


@pytest.mark.parametrize(
    "strategy, loops, message",
    [
        ("0;3", 1, r"group 1 \(3\) of the mask strategy is for loop 3, but the last one is 0, .*; raise `loops`"),
        ("0;3,0", 3, r"group 1 \(3,0\) of the mask strategy is for loop 3, but the last one is 2"),
        ("0,1", 1, r"group 0 \(0,1\) of the mask strategy: there is no reference 1; loop 0 has 1, counted from 0"),
        ("0;1,2", 2, r"group 1 \(1,2\) of the mask strategy: there is no reference 2; loop 1 has 2"),
        ("0,0,0,5", 1, r"group 0 \(0,0,0,5\) of the mask strategy: target_start must lie in -5..4"),
        ("0,0,-2", 1, r"group 0 \(0,0,-2\) of the mask strategy: reference_start in .*a.png must lie in -1..0"),
        ("0,0,0,0,1,0.01", 1, r"the mask strategy: edit 0.01 changes nothing in 3 steps"),
    ],
)  # fmt: skip
def test_mask_strategies_without_effect(refused: Any, strategy: str, loops: int, message: str) -> None:
    refused(message, references=["a.png"], mask_strategy=strategy, loops=loops)
    own = f'{{"reference_path": "a.png", "mask_strategy": "{strategy}"}}'
    refused(message, prompt=f"a{own}", loops=loops)


def test_references_without_effect(refused: Any) -> None:
    message = r"the mask strategy '0' does not use reference 1 \(.*b.png\); leave it out or add a group"
    refused(message, references=["a.png", "b.png"], mask_strategy="0")
    refused("has a reference_path, but no mask_strategy that says where it goes", prompt='a{"reference_path": "a.png"}')
    refused("there is no reference 0; loop 0 has 0", prompt='a{"mask_strategy": "0"}')
    own = 'a{"reference_path": "a.png", "mask_strategy": "0"}'
    refused("brings references of its own; give these or files, not both", prompt=own, images=["b.png"])


@pytest.mark.parametrize(
    "prompt, loops, message",
    [
        ("|0|a|1|b", 1, r"\|1\|b in the prompt is for loop 1, but the last one is 0, .* raise `loops` \(now 1\)"),
        ("|0|a|2|b|5|c", 4, r"\|5\|c in the prompt is for loop 5, but the last one is 3"),
        ("|1|a", 2, r"\|1\| in the prompt '\|1\|a' has no effect: texts for loops begin with \|0\|"),
        (" |0|a|1|b", 2, r"\|0\| in the prompt .* has no effect"),
        ("a cat | 1 |a dog", 2, r"\| 1 \| in the prompt .* has no effect"),
    ],
)
def test_texts_of_loops_that_never_run(refused: Any, prompt: str, loops: int, message: str) -> None:
    refused(message, prompt=prompt, loops=loops)


def test_edits_that_no_step_is_fine_enough_for(refused: Any, make: Workshop) -> None:
    refused(
        r"`edit` 0.1 changes nothing in 3 steps, the last of which begins at 0.528; give at least that, more `steps`",
        video="clip.mp4", edit=0.1,
    )  # fmt: skip
    refused("`condition_edit` 0.1 changes nothing in 3 steps", loops=2, condition_edit=0.1)
    # What the message advises works, and so does asking for no change.
    (make.folder / "clip.mp4").touch()
    for values in ({"edit": 0.528}, {"edit": 0.1, "steps": 30}, {"edit": 0}, {"edit": 1}):
        resolve(make.settings(video=str(make.folder / "clip.mp4"), **values))


def test_files_that_are_not_what_their_option_takes(refused: Any) -> None:
    refused("`images` takes pictures, but .*frames is a folder; `video` takes a folder of frames", images=["frames"])
    for how in ({"edit": 0.9}, {"extend": "backward"}, {}):
        refused(r"`video` takes a clip, but .*a.png is a picture; `images` starts with a picture", video="a.png", **how)


def test_nothing_is_left_to_generate(refused: Any) -> None:
    message = r"`frames` must be above the 17 frames that a clip takes over .* \(`condition_latents` 5\), got 17"
    refused(message, video="clip.mp4", condition_latents=5)
    refused(message, loops=2, condition_latents=5)
    refused("`frames` must be above the 1 frame that", loops=2, frames=1, output="a.mp4")


def test_the_schedulers_fields_are_checked_at_once(refused: Any) -> None:
    refused("the scheduler has no field base_sise", scheduler={"base_sise": 3})


def test_lengths_are_checked_before_loading(
    make: Workshop, clip: str, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parts, "load_text_encoder", lambda *_, **__: pytest.fail("loaded"))
        with pytest.raises(
            ValueError, match=r"has 20 frames, which is too short for an `edit` of 34; `frames=20` edits"
        ):
            make(video=clip, edit=0.9, frames=34)
        with pytest.raises(ValueError, match=r"clip.mp4 is a clip of 20 frames; `video` takes one"):
            make(images=[clip])
        with pytest.raises(ValueError, match=r"reference_start in .*clip.mp4 must lie in -6..5, .*; got 6"):
            make(references=[clip], mask_strategy="0,0,6")
    with pytest.warns(UserWarning, match=r"only the first 17 frames of .* will be edited; more `frames` edit"):
        make("cut.gif", video=clip, edit=0.9)
    make("all.gif", video=clip, edit=0.9, frames=20)
    assert len(read_video(make.folder / "all.gif")[0]) == 20


def test_a_picture_is_edited_into_another(make: Workshop, picture: str) -> None:
    make("edit.png", video=picture, edit=0.9, frames=1)
    make("keep.png", video=picture, edit=0, frames=1)
    edited, kept = (read_image(make.folder / name).astype(float) for name in ("edit.png", "keep.png"))
    assert np.abs(edited - kept).mean() > 0.01
