"""Our settings as the arguments of a pipeline's call, by whatever names it has for them.

What is not said stays the pipeline's own default. What is said, and has no place in the call, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videoaccel.common.home import expand
from videoaccel.media.reader import is_image
from videoaccel.outside.signature import Signature
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.refused import nearest
from videoaccel.settings.sizes import resolve_size

NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "steps": ("num_inference_steps",),
        "frames": ("num_frames", "video_length"),
        "negative_prompt": ("negative_prompt", "neg_prompt"),
        "images": ("image", "images", "image_reference"),
        "video": ("video",),
        "fps": ("fps", "frame_rate"),
    }
)
"""What settings are called, the usual name first."""

RESERVED: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "the prompt itself says it",
        "generator": "it is made of `seed`",
        "seed": "it is `seed`",
        "return_dict": "results are taken by name",
        "output_type": "what is written are pictures, frames or sound",
        "num_images_per_prompt": "`samples` makes several",
        "num_videos_per_prompt": "`samples` makes several",
        "num_waveforms_per_prompt": "`samples` makes several",
        "state": "it is made anew for every clip",
        "output": "results are taken by name",
        "callback": "a file cannot hold a function",
        "callback_on_step_end": "a file cannot hold a function",
    }
)
"""Arguments of calls that are not for users here, each with what is."""

CLASSES = "class_labels"
BINS = "use_resolution_binning"
"""Of some pipelines: whether pictures are made at the next of the sizes that were trained on, where these are known."""

TRUE, SCALE = "true_cfg_scale", "guidance_scale"


@dataclass(frozen=True)
class File:
    """A picture or clip that an argument is read from.

    Attributes:
        path: Absolute.
    """

    path: Path

    @property
    def moves(self) -> bool:
        """Whether it is a clip."""
        return not is_image(self.path)


@dataclass(frozen=True)
class Arguments:
    """Of all calls of a run.

    Attributes:
        values: By name; files are not read yet.
        prompt: Name of the argument for a prompt; None if there is none.
        labels: Numbers of classes by name, of a pipeline that takes these for prompts.
        signature: What the call takes.
    """

    values: Mapping[str, Any]
    prompt: str | None
    signature: Signature
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [file.path for value in self.values.values() for file in _files(value)]

    def of(self, prompt: str | None) -> dict[str, Any]:
        """Those of one call, but for the generator.

        Raises:
            ValueError: It is no class that the pipeline knows.
        """
        if prompt is None or self.prompt is None:
            return dict(self.values)
        told: Any = prompt if self.prompt != CLASSES else [label(prompt, self.labels)]
        return {self.prompt: told, **self.values}


def arguments_of(s: GenerateSettings, signature: Signature, *, index: Mapping[str, Any]) -> Arguments:
    """The arguments of a run's calls.

    Args:
        s: The settings.
        signature: What the call takes.
        index: The pipeline's index, which may name classes.

    Raises:
        ValueError: Something has no place in the call, is given twice, or is missing.
        FileNotFoundError: A file is not there.
    """
    values = _mapped(s, signature)
    for name, value in s.args.items():
        if name in RESERVED:
            raise ValueError(f"{name} cannot be told by `args`: {RESERVED[name]}")
        signature.check(name, value)
        if name in values:
            raise ValueError(f"{name} is given twice, by `args` and by a setting of its own")
        values[name] = read_later(value)
    _check_negative(s, signature, values)
    found = Arguments(values, signature.first(("prompt", CLASSES)), signature, labels_of(index))
    _check_prompts(s, found)
    missing = [name for name in signature.required if name not in (*values, found.prompt, "generator")]
    if missing:
        raise ValueError(f"{signature.kind} needs {missing[0]!r}; `args` tells it")
    return found


def guidance_name(signature: Signature) -> str | None:
    """What guidance is called: where there are two scales, the one that is on by itself (Qwen), else the embedded one.

    >>> guidance_name(Signature("A", {"true_cfg_scale": 4.0, "guidance_scale": None}))
    'true_cfg_scale'
    >>> guidance_name(Signature("B", {"true_cfg_scale": 1.0, "guidance_scale": 3.5}))
    'guidance_scale'
    """
    usual = signature.defaults.get(TRUE)
    if isinstance(usual, int | float) and usual > 1:
        return TRUE
    return signature.first((SCALE, TRUE))


def label(text: str, labels: Mapping[str, int]) -> int:
    """The number of a class, by number or by name.

    Raises:
        ValueError: There is none of this name.

    >>> label("7", {}), label("Goldfish", {"goldfish": 1})
    (7, 1)
    """
    if text.strip().isdigit():
        return int(text)
    if (number := labels.get(text.strip().lower())) is not None:
        return number
    known = nearest(text.strip().lower(), list(labels)) if labels else "; this pipeline names none, so give its number"
    raise ValueError(f"prompts are classes here, and there is none called {text!r}{known}")


def read_later(value: Any) -> Any:
    """A value with ``@name`` taken for a file's name, also inside lists; ``@@`` is a text that begins with @.

    Raises:
        FileNotFoundError: The file is not there.
    """
    if isinstance(value, list | tuple):
        return [read_later(item) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    return value[1:] if value.startswith("@@") else file_of(value[1:])


def file_of(name: str) -> File:
    """A file that is read later.

    Raises:
        FileNotFoundError: It is not there.
    """
    path = expand(name).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{name} does not exist")
    return File(path)


def _mapped(s: GenerateSettings, signature: Signature) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in ("steps", "frames", "negative_prompt"):
        if (value := getattr(s, setting)) is not None:
            values[_place(setting, signature)] = value
    if s.guidance is not None:
        name = guidance_name(signature)
        if name is None:
            raise ValueError(f"`guidance` has no place here: {signature.missing(SCALE)}")
        values[name] = s.guidance
    if s.size is not None:
        for name, value in zip(("height", "width"), resolve_size(s.size), strict=True):
            if name not in signature.defaults:
                raise ValueError(f"`size` has no place here: {signature.missing(name)}")
            values[name] = value
    if s.fps is not None and (name := signature.first(NAMES["fps"])) is not None:
        values[name] = _as(signature.defaults[name], s.fps)
    if s.images:
        values |= _pictures(s, signature)
    if s.video is not None:
        values[_place("video", signature)] = file_of(s.video)
    return values


def _pictures(s: GenerateSettings, signature: Signature) -> dict[str, Any]:
    """One picture; two are the first and the last where a pipeline takes these, else a list."""
    name, files = _place("images", signature), [file_of(path) for path in s.images]
    if len(files) == 2 and "last_image" in signature.defaults:
        return {name: files[0], "last_image": files[1]}
    return {name: files[0] if len(files) == 1 else files}


def _place(setting: str, signature: Signature) -> str:
    name = signature.first(NAMES[setting])
    if name is None:
        raise ValueError(f"`{setting}` has no place here: {signature.missing(NAMES[setting][0])}")
    return name


def _as(default: Any, value: float) -> float:
    """Of the default's type, as far as that loses nothing."""
    return int(value) if isinstance(default, int) and value == int(value) else value


def _check_negative(s: GenerateSettings, signature: Signature, values: Mapping[str, Any]) -> None:
    """Refuse a negative prompt that the pipeline would leave unread without a word."""
    if s.negative_prompt is None:
        return
    name = TRUE if TRUE in signature.defaults else guidance_name(signature)
    scale = values.get(str(name), signature.defaults.get(str(name)))
    if isinstance(scale, int | float) and scale <= 1:
        advice = f"args={TRUE}=4" if name == TRUE else "guidance=4"
        raise ValueError(f"`negative_prompt` does nothing at {name} {scale:g}; raise it, such as `{advice}`")


def _check_prompts(s: GenerateSettings, found: Arguments) -> None:
    if s.prompt and found.prompt is None:
        raise ValueError(f"{found.signature.kind} takes no prompt; leave it out")
    if not (s.prompt or s.vbench) and found.prompt is not None and _reads_text(found):
        what = "the number or name of a class as the prompt" if found.prompt == CLASSES else "a prompt"
        raise ValueError(f"{found.signature.kind} needs {what}")
    if found.prompt == CLASSES:
        for prompt in s.prompt:
            label(prompt, found.labels)


def _reads_text(found: Arguments) -> bool:
    return not any(name.startswith("prompt_embeds") for name in found.values)


def labels_of(index: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of classes by name, as a pipeline's index has them."""
    named = index.get("id2label")
    if not isinstance(named, Mapping):
        return {}
    return {name.strip().lower(): int(key) for key, names in named.items() for name in str(names).split(",")}


def _files(value: Any) -> list[File]:
    if isinstance(value, File):
        return [value]
    return [file for item in value for file in _files(item)] if isinstance(value, list) else []
