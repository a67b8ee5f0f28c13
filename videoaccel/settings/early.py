"""What can be found wrong with settings before anything large is imported: a slip is told at once, not after torch.

Nothing here needs torch, PyAV or numpy. What is checked later with more knowledge says the same in the same words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from videoaccel.common.extras import need
from videoaccel.common.files import check_folder
from videoaccel.common.home import expand
from videoaccel.common.plain_files import plain_file
from videoaccel.settings.config import ModelSpec, config_names, load_named
from videoaccel.settings.early_methods import check_fields, check_method_name
from videoaccel.settings.generate import TARGETS, GenerateSettings
from videoaccel.settings.latent_frames import check_overlap, clip_of
from videoaccel.settings.mask_strategy import check_places, parse_mask_strategy
from videoaccel.settings.sizes import check_sides, resolve_size
from videoaccel.settings.tensor_heads import PRIOR, check_format, head_of

BACKENDS = (
    "native", "cudnn", "efficient", "native-flash", "xformers", "flash", "sage", "flash-hub", "flash3-hub", "sage-hub",
)  # fmt: skip
"""Attention kernels."""

READERS = ("pyav", "decord")
"""What can read clips."""

WRITABLE = (".mp4", ".gif", ".png")
"""How names of clips end; those of folders of frames end in "/"."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_early(s: GenerateSettings, *, writes: bool = True) -> None:
    """Check settings of a generation, as far as their own words and a look at the disk go.

    Args:
        s: Of any model.
        writes: Whether clips are written.

    Raises:
        ValueError: A name, an ending or a strategy is wrong, or a package is missing.
        FileNotFoundError: A file is not there.
        OSError: Nothing can be written where the clips are to go.
    """
    check_model_name(s.model)
    ours = s.model in config_names("models")
    if ours and not s.prompt and s.vbench is None and writes:
        raise ValueError("there is no prompt; give `prompt`, such as 'a red circle moves left'")
    if s.accel is not None:
        check_method_name(s.accel)
        check_fields(s.accel, s.accel_options, [name for name in TARGETS if getattr(s, name) is not None])
    check_backend_name(s.attention)
    if s.explain and writes:
        need("`explain`", "matplotlib", "report")
    parse_mask_strategy(s.mask_strategy)
    loras = [parse_lora(text)[0] for text in s.lora]
    check_files([*loras, *s.images, *([s.video] if s.video else []), *s.references])
    for name in loras:
        check_lora(name)
    check_clip(s)
    if s.prior is not None:
        check_prior(s.prior, s)
    if writes and s.output and s.vbench is None:
        if ours:  # other pipelines write other things, sound for one
            output_kind(s.output)
        check_folder(expand(s.output))
        check_no_folder(s.output)


def check_clip(s: GenerateSettings) -> None:
    """Check sizes and what is placed where in a clip, of a model that says so without being loaded.

    Raises:
        ValueError: There is no such size, or something lies outside of the clip or what is given.
    """
    named = s.size is not None or s.resolution is not None
    size = resolve_size(s.size, resolution=s.resolution, aspect=s.aspect) if named else None
    if (known := clip_of(s.model, vae=s.vae)) is None:
        return
    defaults, chunks = known
    if size is not None:
        check_sides(*size, least=chunks.least)
    frames = s.frames or defaults.num_frames
    extends = s.video is not None and s.edit is None and s.mask_strategy is None
    if extends or s.loops > 1:
        check_overlap(frames, s.condition_latents or defaults.condition_latents)
    if s.mask_strategy is not None:
        references = [*s.images, *([s.video] if s.video else []), *s.references]
        check_places(s.mask_strategy, references, loops=s.loops, frames=frames, chunks=chunks)


def check_model_name(name: str) -> None:
    """Make sure that a model may be called so.

    Raises:
        ValueError: It is no name, no path, and no repository of a hub.
    """
    specs = {known: load_named("models", known, ModelSpec) for known in config_names("models")}
    if name in specs or expand(name).exists() or _HUB_ID.fullmatch(name):
        return
    raise ValueError(no_model(name, specs))


def no_model(name: str, specs: Iterable[str]) -> str:
    """That there is no model of this name, and what there is."""
    known = {one: load_named("models", one, ModelSpec) for one in specs}
    released = [spec.transformer.source for spec in known.values() if spec.transformer is not None]
    return (
        f"no model or folder is called {name!r}; there are {', '.join([*known, *released])}, or give a pipeline folder"
    )


def check_backend_name(name: str) -> None:
    """Make sure that there is an attention kernel of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; there are {', '.join(BACKENDS)}")


def check_reader_name(name: str) -> None:
    """Make sure that there is a reader of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in READERS:
        raise ValueError(f"no reader is called {name!r}; there are {', '.join(READERS)}")


def check_files(names: Iterable[str]) -> None:
    """Make sure that files are there.

    Raises:
        FileNotFoundError: One is not.
    """
    for name in names:
        if not (path := expand(name)).exists():
            raise FileNotFoundError(f"{path.absolute()} does not exist")


def check_prior(name: str, s: GenerateSettings, *, foreign: bool | None = None) -> None:
    """Make sure that a prior is there, is one, and was made for such clips, as far as settings and its head say.

    Args:
        name: Its file.
        s: The clips.
        foreign: Whether other clips' will do; default as the settings say.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is none, or it was made for other clips.
    """
    if not (path := expand(name)).is_file():
        raise FileNotFoundError(f"there is no prior {path}; videoaccel calibrate makes one")
    setting = check_format(path, PRIOR, what="no prior").get("setting")
    if (s.allow_foreign_prior if foreign is None else foreign) or not isinstance(setting, dict):
        return
    here = _clips_of(s)
    differing = [
        f"{name} {setting[name]}, here {here[name]}" for name in here if setting.get(name, here[name]) != here[name]
    ]
    if differing:
        raise ValueError(
            f"the prior {path} was made for {', '.join(differing)}; calibrate for this setting, or allow a foreign "
            f"prior to interpolate: `allow_foreign_prior`"
        )


def _clips_of(s: GenerateSettings) -> dict[str, Any]:
    """What a prior must have been made for, of a model that says what it makes by default without being loaded."""
    if (known := clip_of(s.model, vae=s.vae)) is None:
        return {}
    usual = known[0]
    named = s.size is not None or s.resolution is not None
    size = resolve_size(s.size, resolution=s.resolution, aspect=s.aspect) if named else (usual.height, usual.width)
    told: dict[str, Any] = {
        "steps": s.steps or usual.steps,
        "size": list(size),
        "frames": s.frames or usual.num_frames,
        "guidance": float(usual.guidance if s.guidance is None else s.guidance),
    }
    return {name: value for name, value in told.items() if not isinstance(value, str)}  # "4s" is counted later


def check_lora(name: str) -> None:
    """Make sure that a file may hold weights, by its first bytes.

    Raises:
        ValueError: It cannot.
    """
    path = expand(name)
    if path.is_dir():
        return
    if path.suffix == ".safetensors":
        head_of(path)
        return
    with plain_file(path) as file:
        start = file.read(2)
    if start[:1] != b"\x80" and start != b"PK":  # a pickle, or torch's archive of one
        raise ValueError(f"{path} holds no weights; a LoRA is a .safetensors file, or one that torch has written")


def output_kind(path: str | Path) -> str:
    """The ending of a clip's name, or "/" for a folder of frames.

    Raises:
        ValueError: It is another.
    """
    text, suffix = str(path), Path(path).suffix.lower()
    folder = text.endswith(("/", os.sep))
    if folder and Path(path).name not in ("", ".."):
        return "/"
    if folder or suffix not in WRITABLE:
        raise ValueError(
            f"cannot write {text!r}: its name must end in {', '.join(WRITABLE)}, such as clips/clip.mp4, or in '/' for "
            f"a folder of frames"
        )
    return suffix


def check_no_folder(output: str) -> None:
    """Make sure that no folder has the name of a clip's file.

    Raises:
        FileExistsError: One has.
    """
    if not output.endswith(("/", os.sep)) and expand(output).is_dir():
        raise FileExistsError(f"cannot write {output}: a folder has that name; for frames in a folder, end it in '/'")


def nothing_to_plan(s: GenerateSettings) -> bool:
    """Whether neither a method nor a target is named."""
    return s.accel is None and all(getattr(s, name) is None for name in TARGETS)


def parse_lora(text: str) -> tuple[str, float]:
    """A file and how much of it, from ``FILE`` or ``FILE:weight``.

    Raises:
        ValueError: There is no file in it.

    >>> parse_lora("style.safetensors:0.8"), parse_lora("a:b.safetensors")
    (('style.safetensors', 0.8), ('a:b.safetensors', 1.0))
    """
    name, _, weight = text.rpartition(":")
    if name and re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)", weight):
        return name, float(weight)
    if not text:
        raise ValueError("a LoRA needs a file, such as style.safetensors or style.safetensors:0.8")
    return text, 1.0
