"""Refuses, before any model is loaded, what is given in a way that could not take effect.

A reference for a loop that never runs, or an edit that no step is fine enough for, would cost a whole run and change
nothing. Frames are counted when the files are read, see `videoaccel.jobs.parts.read_given`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videoaccel.common.home import expand
from videoaccel.common.wording import counted
from videoaccel.generation.loading import Source, load_scheduler, torch_dtype
from videoaccel.media.reader import is_image
from videoaccel.sampling.rectified_flow import active_frames
from videoaccel.settings.early import parse_lora
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.latent_frames import check_overlap, clip_of
from videoaccel.settings.mask_strategy import check_places, last_loop
from videoaccel.text.prompts import cut_options, split_segments


def lora_files(s: GenerateSettings) -> list[Path]:
    """Files of LoRA weights."""
    return [expand(parse_lora(text)[0]) for text in s.lora]


def given_files(s: GenerateSettings) -> list[Path]:
    """Every file that is read for conditioning."""
    own = [path for prompt in s.prompt for path in _own_references(prompt)]
    return [expand(path) for path in dict.fromkeys([*_references(s), *own])]


def check_given(s: GenerateSettings, source: Source, *, height: int, width: int) -> None:
    """Check everything that a clip is conditioned on, as far as it can be without reading it.

    Args:
        s: Settings with nothing left to defaults.
        source: The model.
        height: Pixels.
        width: Pixels.

    Raises:
        ValueError: Something would have no effect, or is not what its option takes.
        FileNotFoundError: A file is not there.
    """
    timesteps = _timesteps(s, source, height=height, width=width)
    assert s.frames is not None
    check_overlap(s.frames, s.condition_latents)
    for name, edit in (("edit", s.edit), ("condition_edit", s.condition_edit)):
        _check_edit(edit or 0.0, f"`{name}`", timesteps)
    if s.mask_strategy is not None:
        _check_strategy(s.mask_strategy, _references(s), s, timesteps)
    for prompt in s.prompt:
        _check_prompt(prompt, s, timesteps)
    _check_files(s)


def _references(s: GenerateSettings) -> list[str]:
    return [*s.images, *([s.video] if s.video else []), *s.references]


def _own_references(prompt: str) -> Iterator[str]:
    return (path for path in cut_options(prompt).reference_path.split(";") if path)


def _timesteps(s: GenerateSettings, source: Source, *, height: int, width: int) -> Tensor:
    """The schedule of a run [N, 1]."""
    scheduler = load_scheduler(source, **s.scheduler)
    assert s.steps is not None and s.frames is not None
    size = {"height": height, "width": width, "num_frames": s.frames}
    scheduler.set_timesteps(s.steps, **size, dtype=torch_dtype(str(s.dtype)))
    return scheduler.timesteps


def _check_edit(edit: float, what: str, timesteps: Tensor) -> None:
    mask = torch.tensor([[edit]])
    if 0 < edit < 1 and not bool(active_frames(mask, timesteps).any()):
        least = math.ceil(float(timesteps[-1])) / 1000
        raise ValueError(
            f"{what} {edit:g} changes nothing in {counted(len(timesteps), 'step')}, the last of which begins at "
            f"{least:g}; give at least that, more `steps`, or 0 to keep the frames"
        )


def _check_strategy(strategy: str, references: Sequence[str], s: GenerateSettings, timesteps: Tensor) -> None:
    _, chunks = clip_of(s.model, vae=s.vae) or (None, None)
    groups = check_places(strategy, references, loops=s.loops, frames=s.frames, chunks=chunks)
    for number, (group, text) in enumerate(zip(groups, strategy.split(";"), strict=True)):
        _check_edit(group.edit, f"group {number} ({text}) of the mask strategy: edit", timesteps)


def _check_prompt(prompt: str, s: GenerateSettings, timesteps: Tensor) -> None:
    text, paths, strategy = cut_options(prompt)
    _check_texts(text, s.loops)
    if not (paths or strategy):
        return
    if _references(s):
        raise ValueError(f"the prompt {prompt!r} brings references of its own; give these or files, not both")
    if not strategy:
        raise ValueError(f"the prompt {prompt!r} has a reference_path, but no mask_strategy that says where it goes")
    _check_strategy(strategy, list(_own_references(prompt)), s, timesteps)


def _check_texts(text: str, loops: int) -> None:
    """Check that every |n| text of a prompt is for a loop that runs."""
    segments = split_segments(text)
    if segments[0].start is None:
        if mark := re.search(r"\|\s*\d+\s*\|", text):
            raise ValueError(
                f"{mark[0]} in the prompt {text!r} has no effect: texts for loops begin with |0|, as in |0|text|1|text"
            )
        return
    if late := [segment for segment in segments if (segment.start or 0) >= loops]:
        raise ValueError(
            f"|{late[0].start}|{late[0].text} in the prompt is for loop {late[0].start}, but {last_loop(loops)}"
        )


def _check_files(s: GenerateSettings) -> None:
    for path in [*given_files(s), *lora_files(s)]:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    if s.mask_strategy is not None:
        return
    if folder := next((path for path in s.images if Path(path).is_dir()), None):
        raise ValueError(f"`images` takes pictures, but {folder} is a folder; `video` takes a folder of frames")
    image_to_image = s.edit is not None and s.frames == 1
    if s.video and is_image(s.video) and not image_to_image:
        raise ValueError(
            f"`video` takes a clip, but {s.video} is a picture; `images` starts with a picture, and with `frames=1` "
            f"an `edit` makes another picture of it"
        )
