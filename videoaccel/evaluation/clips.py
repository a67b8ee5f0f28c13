"""Clips of a folder, what each should show, and what it is compared with."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videoaccel.common.files import sidecar_of
from videoaccel.common.plain_json import parse_json, read_json
from videoaccel.common.reading import check_prompts_name, parse_colour, prompt_lines, read_text
from videoaccel.eval.vbench import Prompt, parse_name, read_full_info
from videoaccel.media.colour import WHITE
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import is_image, read_video
from videoaccel.media.second_reader import read_like_players
from videoaccel.settings.early import check_reader_name

CLIP_SUFFIXES = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi", ".m4v")
"""Names that end so are clips; a folder of pictures is one, too."""

_RENDER = ".render"  # stands in the folder of a render, beside its clips

SAMPLES = 5
"""Of every prompt that VBench counts, numbered from 0."""

_JSON = "leave the prompts to the sidecars, or give them as a JSON object {file name: prompt}"

READERS: Mapping[str, Callable[..., tuple[Frames, float]]] = MappingProxyType(
    {"pyav": read_video, "decord": read_like_players}
)
"""What can read clips, by name; folders of frames are always read by Pillow."""


@dataclass(frozen=True)
class Reading:
    """How clips are read.

    Attributes:
        reader: One of `READERS`.
        ground: What shows where a clip is transparent: the name of a colour, or #rrggbb.

    Raises:
        ValueError: There is no such reader, or it is no colour.
    """

    reader: str = "pyav"
    ground: str = "white"

    def __post_init__(self) -> None:
        check_reader_name(self.reader)
        parse_colour(self.ground)

    def __call__(self, path: Path) -> tuple[Frames, float]:
        """Frames uint8 [T, H, W, 3] and frames per second.

        Raises:
            ValueError: It is damaged, empty or no clip; names the file.
            OSError: It cannot be read.
        """
        read = read_video if path.is_dir() else READERS[self.reader]
        return read(path, ground=parse_colour(self.ground))

    def facts(self) -> dict[str, str]:
        """What measurements depend on; a white ground is not named, as before there were others."""
        ground = {} if parse_colour(self.ground) == WHITE else {"ground": self.ground}
        return {"reader": self.reader, **ground}


@dataclass(frozen=True)
class ClipFile:
    """A clip that is to be measured.

    Attributes:
        name: Of the file, or folder of frames.
        path: Where it is.
        reference: The clip that it should be, if there are references; None where this one's is missing.
        prompt: What it should show.
        dimensions: VBench's dimensions that its prompt was written for; None for all.
        about: VBench's ``auxiliary_info`` of the prompt.
    """

    name: str
    path: Path
    reference: Path | None = None
    prompt: str | None = None
    dimensions: tuple[str, ...] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptBook:
    """Prompts that were given.

    Attributes:
        by_file: By file name.
        rows: Of a ``VBench_full_info.json``, or texts without dimensions.
        official: Whether rows have dimensions, so that each clip counts in those of its prompt only.
    """

    by_file: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Prompt, ...] = ()
    official: bool = False

    def without_clips(self, clips: Sequence[ClipFile]) -> list[str]:
        """Prompts of which there is no clip."""
        there = {clip.prompt for clip in clips}
        return [text for text in dict.fromkeys(row.text for row in self.rows) if text not in there]


def read_prompts_file(path: Path) -> PromptBook:
    """Prompts from a ``VBench_full_info.json``, a JSON object ``{file name: prompt}``, or a text file, one a line.

    Raises:
        ValueError: It is none of these.
        OSError: It cannot be read.
    """
    text = read_text(path, name=f"--prompts {path}")
    if path.suffix.lower() != ".json":
        check_prompts_name(str(path))
        return PromptBook(rows=tuple(Prompt(line, ()) for line in prompt_lines(text, source=str(path))))
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if isinstance(data, dict):
        if wrong := next((name for name, prompt in data.items() if not isinstance(prompt, str)), None):
            raise ValueError(f"{path}: the prompt of {wrong!r} is no text")
        return PromptBook(by_file={_one_form(name): prompt for name, prompt in data.items()})
    return PromptBook(rows=tuple(read_full_info(text, source=str(path))), official=True)


def find_clips(folder: Path, *, reference: Path | None = None, prompts: PromptBook | None = None) -> list[ClipFile]:
    """The clips of a folder by name, each with its prompt and reference.

    A prompt comes from the file of prompts, else from the clip's own sidecar, else from its name,
    ``{prompt}-{index}.mp4``. The reference has the clip's name, or its name with another ending.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no clip.
    """
    book = prompts or PromptBook()
    paths = _clips_of(folder)
    if stray := sorted(set(book.by_file) - {_one_form(path.name) for path in paths}):
        raise ValueError(f"the prompts name {stray[0]!r}, and {folder} holds no clip of this name")
    if not paths:
        render = folder.parent if folder.name == "clips" else folder
        if (render / _RENDER).is_dir():
            told = f"{folder} has a folder for each clip, as a render"
            raise ValueError(f"{told}; videoaccel report {render} measures it")
        raise ValueError(f"{folder} holds no clip; they end in {', '.join(CLIP_SUFFIXES)}, or are folders of pictures")
    others = {_one_form(path.name): path for path in _clips_of(reference)} if reference else {}
    stems = {_one_form(_stem(path)): path for path in others.values()}
    return [_clip(path, others.get(_one_form(path.name)) or stems.get(_one_form(_stem(path))), book) for path in paths]


def _clips_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in CLIP_SUFFIXES or _is_frames(path))


def _is_frames(path: Path) -> bool:
    """Whether a folder is a clip, and not one that holds a clip beside its poster, as those of a render do."""
    files = list(path.iterdir()) if path.is_dir() else []
    return any(map(is_image, files)) and not any(file.suffix.lower() in CLIP_SUFFIXES for file in files)


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.name.removesuffix(path.suffix)


def _one_form(name: str) -> str:
    """A name in the form that others are compared in: some disks keep an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def _clip(path: Path, reference: Path | None, book: PromptBook) -> ClipFile:
    name = path.name
    if (known := _one_form(name)) in book.by_file:
        return ClipFile(name, path, reference, book.by_file[known])
    parsed, number = parse_name(name)
    rows = [row for row in book.rows if _one_form(row.text) == _one_form(parsed)]
    parsed = rows[0].text if rows else parsed
    counted = not book.official or (bool(rows) and number in range(SAMPLES))
    if not counted:
        return ClipFile(name, path, reference, parsed, ())
    if rows:
        about = {key: value for row in rows for key, value in row.about.items()}
        dimensions = tuple(dict.fromkeys(d for row in rows for d in row.dimensions)) if book.official else None
        return ClipFile(name, path, reference, parsed, dimensions, about)
    told = _sidecar_prompt(path)
    return ClipFile(name, path, reference, _line(name, number, told, book) if book.rows else told or parsed)


def _line(name: str, number: int | None, told: str | None, book: PromptBook) -> str:
    """The prompt of a clip that is not named after it: clip k has line k, as `videoaccel generate --prompts` counts.

    Raises:
        ValueError: There is no such line, or the clip was made from another one.
    """
    count = len(book.rows)
    if number is None or number >= count:
        raise ValueError(f"{name} is named neither after a prompt nor after one of lines 0 to {count - 1}; {_JSON}")
    if told is not None and told != book.rows[number].text:
        raise ValueError(f"{name} was made from {told!r}, and line {number} is {book.rows[number].text!r}; {_JSON}")
    return book.rows[number].text


def _sidecar_prompt(path: Path) -> str | None:
    """The prompt in the .json that ``videoaccel generate`` writes beside a clip."""
    place = sidecar_of(path)
    try:
        record = read_json(place)
    except (OSError, ValueError):
        return None  # there is none: the clip may come from anywhere
    found = record.get("prompt") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None
