"""From a name, a folder or a hub id to the parts of a pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videoaccel.config import Config, Defaults, ModelSpec, Part, config_names, load_named, validate
from videoaccel.models.checkpoint import read_config
from videoaccel.models.stdit import STDiT3
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.sampler import RectifiedFlowScheduler

RELEASE = "opensora-v1.2"


class _Index(Config):
    """The part of a ``model_index.json`` that is ours."""

    defaults: Defaults


@dataclass(frozen=True)
class Source:
    """Where a model's parts are.

    Attributes:
        name: As the user gave it.
        folder: A pipeline folder with ``model_index.json``; None if the parts stand alone.
        spec: Parts and defaults.
    """

    name: str
    folder: Path | None
    spec: ModelSpec

    @property
    def text(self) -> Part:
        """Where the text encoder is."""
        if self.folder is not None:
            return Part(source=str(self.folder), subfolder="text_encoder")
        assert self.spec.text_encoder is not None
        return self.spec.text_encoder

    @property
    def tokenizer(self) -> Part:
        """Where the tokenizer is."""
        return Part(source=str(self.folder), subfolder="tokenizer") if self.folder is not None else self.text


def find_model(name: str, *, vae: str | None = None, text_encoder: str | None = None) -> Source:
    """Find a model by the name of its configuration, by a folder, or by the hub id of its transformer.

    Args:
        name: ``demo``, ``opensora-v1.2``, a folder saved by ``save_pretrained``, a folder or hub id of a released
            STDiT3.
        vae: For a released STDiT3: folder or hub id of the VAE in place of the release's.
        text_encoder: Likewise of the T5.

    Raises:
        ValueError: There is no such model (says what there is), or one with all its parts in a folder was to get
            another part.
    """
    specs = {known: load_named("models", known, ModelSpec) for known in config_names("models")}
    path = Path(name).expanduser()
    if name in specs:
        spec = specs[name]
        if spec.folder is not None:
            folder = Path(__file__).parent / spec.folder
            if not (folder / "model_index.json").is_file():
                raise ValueError(f"the files of the {name} model are missing: {folder}")
            return _whole(Source(name, folder, spec), vae, text_encoder)
    elif path.is_dir() and (path / "model_index.json").is_file():
        spec = ModelSpec(description=name, defaults=_defaults_of(path))
        return _whole(Source(name, path, spec), vae, text_encoder)
    elif path.is_dir() and (path / "config.json").is_file():
        spec = specs[RELEASE].model_copy(update={"transformer": Part(source=str(path))})
    elif path.is_dir():
        raise ValueError(f"{path} is no model: it has neither a model_index.json nor a config.json")
    else:
        released = {s.transformer.source: s for s in specs.values() if s.transformer is not None}
        if name not in released:
            known = ", ".join([*specs, *released])
            raise ValueError(f"no model or folder is called {name!r}; there are {known}, or give a pipeline folder")
        spec = released[name]
    update = {"vae": vae and Part(source=vae), "text_encoder": text_encoder and Part(source=text_encoder)}
    return Source(name, None, spec.model_copy(update={key: part for key, part in update.items() if part}))


def load_parts(source: Source, *, dtype: torch.dtype) -> dict[str, Any]:
    """Load transformer, VAE and scheduler of a model whose parts stand alone.

    Raises:
        ValueError: Weights or configuration do not fit.
        OSError: A folder or hub id cannot be reached.
    """
    spec = source.spec
    assert spec.transformer is not None and spec.vae is not None
    return {
        "transformer": STDiT3.from_pretrained(
            spec.transformer.source, subfolder=spec.transformer.subfolder, dtype=dtype
        ),
        "vae": VideoAutoencoder.from_pretrained(spec.vae.source, subfolder=spec.vae.subfolder, dtype=dtype),
        "scheduler": RectifiedFlowScheduler(**spec.scheduler),
        "defaults": spec.defaults.model_dump(),
    }


def torch_dtype(name: str) -> torch.dtype:
    """The type of this name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _whole(source: Source, *parts: str | None) -> Source:
    """A pipeline folder, which has all its parts."""
    if given := [part for part in parts if part]:
        raise ValueError(
            f"{source.name} is a pipeline folder with parts of its own; {' and '.join(given)} has no place in it"
        )
    return source


def _defaults_of(folder: Path) -> Defaults:
    index = read_config(folder / "model_index.json")
    given = {"defaults": index["defaults"]} if index.get("defaults") else {"defaults": {}}
    return validate(_Index, given, source=str(folder / "model_index.json")).defaults
