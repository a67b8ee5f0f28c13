"""What a model's name, folder or file is: ours, or a pipeline of diffusers. Nothing here needs torch.

====================================  ================================================================================
a folder with ``model_index.json``    the pipeline that its ``_class_name`` says, or ``pipeline_class``
... ``modular_model_index.json``      a modular pipeline
a file of weights                     ``pipeline_class``, which has to be said
``owner/name``                        a repository of the hub: likewise, by its index
====================================  ================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoaccel.common.home import expand
from videoaccel.settings.config import ModelSpec, config_names, load_named
from videoaccel.settings.early import check_model_name
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.pipeline_folder import CLASS, INDEX, MODULAR, foreign_pipeline, read_index

WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")
"""How single files of weights end."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Found:
    """A pipeline of diffusers.

    Attributes:
        name: As the user gave it.
        kind: Its class by name.
        folder: Where it is; None for a single file, and for a repository that may have to be downloaded yet.
        file: The file of weights, if it is one.
        modular: Whether it is made of blocks.
        index: What its index says; empty for a single file.
        code: Files with code that come with it.
    """

    name: str
    kind: str
    folder: Path | None = None
    file: Path | None = None
    modular: bool = False
    index: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Parts that the index names and whose folders are not there; a modular pipeline's may be elsewhere."""
        if self.folder is None or self.modular:
            return []
        parts = [
            name
            for name, part in self.index.items()
            if not name.startswith("_") and isinstance(part, list) and len(part) == 2 and all(map(_named, part))
        ]
        return [name for name in parts if not (self.folder / name).is_dir()]


def find_outside(settings: GenerateSettings) -> Found | None:
    """The pipeline of diffusers that settings name; None where the model is ours, or nothing that is known.

    Raises:
        ValueError: An index is not valid, a single file has no class, or a class was said for what is none.
        OSError: A repository cannot be reached.
    """
    model, path = settings.model, expand(settings.model)
    found = None
    if model in config_names("models"):
        pass
    elif path.is_file() and path.suffix.lower() in WEIGHTS:
        if settings.pipeline_class is None:
            raise ValueError(
                f"{path} does not say of what pipeline it is; `pipeline_class` tells, such as "
                f"`pipeline_class=StableDiffusionXLPipeline`"
            )
        found = Found(model, settings.pipeline_class, file=path)
    elif path.is_dir():
        found = _in_folder(path, settings)
    elif _HUB_ID.fullmatch(model) and not _released(model):
        found = _on_hub(settings)
    if found is None and settings.pipeline_class is not None:
        raise ValueError(f"`pipeline_class` is for pipelines of diffusers, and {model} is none")
    return found


def require_outside(settings: GenerateSettings) -> Found:
    """The pipeline of diffusers that settings name, for what tests such pipelines.

    Raises:
        ValueError: The model is one of ours, with what tests these and how diffusers' own class is taken, or nothing.
    """
    if (found := find_outside(settings)) is not None:
        return found
    check_model_name(settings.model)
    index, said = expand(settings.model) / INDEX, ""
    if index.is_file():
        said = f"; `pipeline_class={read_index(index).get(CLASS)}` tests it as diffusers has it"
    raise ValueError(
        f"{settings.model} is one of our own models, and this test is for pipelines of diffusers: videoaccel methods "
        f"lists what can be had, videoaccel plan says what it would do there, videoaccel verify tests it{said}"
    )


def _in_folder(folder: Path, settings: GenerateSettings) -> Found | None:
    said = settings.pipeline_class
    if said is None and foreign_pipeline(folder) is None:
        return None
    if (folder / INDEX).is_file():
        return _found(settings, read_index(folder / INDEX), folder=folder, modular=False)
    if (folder / MODULAR).is_file():
        return _found(settings, read_index(folder / MODULAR), folder=folder, modular=True)
    return None


def _on_hub(settings: GenerateSettings) -> Found | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from videoaccel.models.checkpoint import hub_reason

    name = settings.model
    for file in (INDEX, MODULAR):
        try:
            path = Path(hf_hub_download(name, file))
        except EntryNotFoundError as error:
            if file == MODULAR:
                raise ValueError(
                    f"{name} is no folder here, and the repository of that name on the Hugging Face hub holds no "
                    f"pipeline ({INDEX}), or is not here: {hub_reason(error)}"
                ) from None
        except (OSError, ValueError) as error:  # no network, no such repository, no leave to read it
            raise OSError(
                f"{name} is no folder here and could not be had from the Hugging Face hub: {hub_reason(error)}"
            ) from error
        else:
            if settings.pipeline_class is None and foreign_pipeline(path.parent) is None:
                return None
            return _found(settings, read_index(path), folder=None, modular=file == MODULAR)
    return None


def _found(settings: GenerateSettings, index: Mapping[str, Any], *, folder: Path | None, modular: bool) -> Found:
    said = index.get(CLASS)
    code = [f"{said[0]}.py"] if isinstance(said, list) and said else []
    for name, part in index.items():
        # diffusers runs such a file of a local folder without asking.
        if isinstance(part, list) and part and folder is not None and (folder / name / f"{part[0]}.py").is_file():
            code.append(f"{name}/{part[0]}.py")
    kind = settings.pipeline_class or str(said[-1] if isinstance(said, list) else said)
    return Found(settings.model, kind, folder=folder, modular=modular, index=index, code=tuple(code))


def _named(value: Any) -> bool:
    return isinstance(value, str)


def _released(name: str) -> bool:
    specs = [load_named("models", known, ModelSpec) for known in config_names("models")]
    parts = [part for spec in specs for part in (spec.transformer, spec.vae, spec.text_encoder)]
    return any(part is not None and part.source == name for part in parts)
