"""The clips of a run: prompts, seeds, and the names of all files that are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoaccel.common.files import sidecar_beside
from videoaccel.common.reading import read_text
from videoaccel.eval.vbench import read_full_info
from videoaccel.generation.request import prompt_texts
from videoaccel.sampling.noise import sample_seeds
from videoaccel.settings.config import Defaults
from videoaccel.settings.generate import NONE, GenerateSettings

LONGEST_NAME = 255
"""Bytes of a file's name, on every disk that is in use."""


@dataclass(frozen=True)
class Outputs:
    """Files of one clip.

    Attributes:
        clip: The video, picture or folder of frames; a folder's name ends in "/".
        sidecar: How it was made.
        sheet: Contact sheet; None for none.
        poster: A frame as a jpeg; None for none.
        explained: Pictures of what the method did, one a loop; empty for none.
    """

    clip: str
    sidecar: Path
    sheet: Path | None
    poster: Path | None = None
    explained: tuple[Path, ...] = ()

    @property
    def all(self) -> list[str]:
        """Every path that is written."""
        return [
            self.clip,
            str(self.sidecar),
            *(str(path) for path in (self.sheet, self.poster, *self.explained) if path),
        ]


@dataclass(frozen=True)
class Sample:
    """One clip to make.

    Attributes:
        prompt: As given.
        texts: Ready for the tokenizer, one a loop.
        seed: Of its noise.
        outputs: What is written; None if it is only made because another clip of its batch depends on it.
    """

    prompt: str
    texts: tuple[str, ...]
    seed: int
    outputs: Outputs | None


def numbered(output: str, count: int) -> list[str]:
    """Names for ``count`` clips.

    >>> numbered("out.mp4", 1), numbered("a/out.mp4", 2), numbered("frames/", 11)[:2]
    (['out.mp4'], ['a/out-0.mp4', 'a/out-1.mp4'], ['frames-00/', 'frames-01/'])
    """
    if count == 1:
        return [output]
    path, end = Path(output), "/" if output.endswith("/") else ""
    digits = len(str(count - 1))
    return [f"{path.with_name(f'{path.stem}-{number:0{digits}d}{path.suffix}')}{end}" for number in range(count)]


def samples_of(s: GenerateSettings, defaults: Defaults) -> list[Sample]:
    """All clips, prompt by prompt.

    Args:
        s: Nothing in them is left to defaults.
        defaults: Of the model, whose words go into the texts.

    Raises:
        ValueError: A prompt is empty, or seeds do not fit.
        OSError: A file of prompts cannot be read.
    """
    scores = {name: getattr(s, name) for name in ("aes", "flow", "camera_motion")}
    told = defaults.model_copy(update={name: None if score == NONE else score for name, score in scores.items()})
    prompts = s.prompt if s.vbench is None else suite_prompts(s.vbench)
    texts = prompt_texts(prompts, told, loops=s.loops, clean=s.clean_prompt)
    count = len(texts) * s.samples
    seeds = sample_seeds(list(s.seeds) or s.seed, prompts=len(texts), samples=s.samples)
    assert s.output is not None
    if s.vbench is not None:
        names = [f"{s.output}{prompt}-{k}.mp4" for prompt in prompts for k in range(s.samples)]
    else:
        names = numbered(s.output, count) if s.keep is None else [s.output] * count
    sidecars = None if s.vbench is None else Path(f"{s.output.rstrip('/')}-sidecars")
    return [
        Sample(
            prompt=prompts[index // s.samples],
            texts=tuple(texts[index // s.samples]),
            seed=seeds[index],
            outputs=_outputs(names[index], s, sidecars) if s.keep in (None, index) else None,
        )
        for index in range(count)
    ]


def suite_prompts(path: str) -> tuple[str, ...]:
    """Every prompt of a ``VBench_full_info.json`` once, in its order.

    Raises:
        ValueError: It is no such file, or a prompt cannot name a clip.
        OSError: It cannot be read.
    """
    rows = read_full_info(read_text(Path(path), name=f"`vbench` {path}"), source=path)
    texts = tuple(dict.fromkeys(row.text for row in rows))
    if wrong := next((text for text in texts if "/" in text), None):
        raise ValueError(f"`vbench` {path}: the prompt {wrong!r} cannot name a file")
    # Found here, before the first clip is made: no disk takes longer names.
    if wrong := next((text for text in texts if len(f"{text}-0000.mp4".encode()) > LONGEST_NAME), None):
        raise ValueError(
            f"`vbench` {path}: the prompt {wrong[:40]!r}... has {len(wrong.encode())} bytes, and the name of a file "
            f"has at most {LONGEST_NAME} with its number and ending"
        )
    return texts


def pictures(folder: Path, name: str, s: GenerateSettings) -> dict[str, Any]:
    """Pictures beside a clip that the settings ask for: the sheet of its frames, and what the method did."""
    numbers = [""] if s.loops == 1 else [f"-{loop}" for loop in range(s.loops)]
    return {
        "sheet": folder / f"{name}-sheet.png" if s.contact_sheet else None,
        "explained": tuple(folder / f"{name}-explain{number}.png" for number in numbers) if s.explain else (),
    }


def _outputs(clip: str, s: GenerateSettings, sidecars: Path | None) -> Outputs:
    """A clip's files; sidecars of a VBench run lie in a folder of their own, since its scripts choke on other files."""
    path = Path(clip)
    name = path.name if clip.endswith("/") else path.stem
    return Outputs(clip, sidecar_beside(clip, folder=sidecars), **pictures(path.parent, name, s))
