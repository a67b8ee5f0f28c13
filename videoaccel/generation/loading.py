"""From a name, a folder or a hub id to the parts of a pipeline."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch

from videoaccel.common.home import expand
from videoaccel.common.package import packaged
from videoaccel.common.plain_json import taken_for
from videoaccel.common.wording import short
from videoaccel.generation.releases import class_labels, release_in
from videoaccel.models.checkpoint import read_config
from videoaccel.models.protocols import Transformer
from videoaccel.sampling.kinds import SCHEDULES, kind_named, with_fields
from videoaccel.settings.config import Config, Defaults, ModelSpec, Part, config_names, load_named, validate
from videoaccel.settings.early import no_model
from videoaccel.settings.pipeline_folder import foreign_pipeline

RELEASE = "opensora-v1.2"
OPEN_SORA: Mapping[str, str] = MappingProxyType({"transformer": "stdit.STDiT3", "vae": "video_vae.VideoAutoencoder"})
MOVED: Mapping[str, str] = MappingProxyType(
    {"videoaccel.sampler": "videoaccel.sampling.rectified_flow", "videoaccel.ddim": "videoaccel.sampling.ddim"}
)
"""Where schedules are now that pipelines saved by earlier versions name by their old module."""
"""What a part is that does not say."""


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
        """Where the text encoder is; of a model that reads classes, where these have their names."""
        if self.folder is not None:
            classes = transformer_class(self).reads_classes
            return Part(source=str(self.folder), subfolder=None if classes else "text_encoder")
        assert self.spec.transformer is not None
        return self.spec.text_encoder or Part(source=self.spec.transformer.source)

    @property
    def tokenizer(self) -> Part:
        """Where the tokenizer is."""
        return Part(source=str(self.folder), subfolder="tokenizer") if self.folder is not None else self.text


def find_model(name: str, *, vae: str | None = None, text_encoder: str | None = None) -> Source:
    """Find a model by the name of its configuration, by a folder, or by the hub id of its transformer.

    Args:
        name: ``demo``, ``opensora-v1.2``, ``latte-1``, ``dit-xl-2-256`` and so on, a folder saved by
            ``save_pretrained``, a folder or hub id of a released STDiT3, a folder with all of a released Latte, DiT or
            PixArt.
        vae: For a released STDiT3: folder or hub id of the VAE in place of the release's.
        text_encoder: Likewise of the T5.

    Raises:
        ValueError: There is no such model (says what there is), or one with all its parts in a folder was to get
            another part.
    """
    specs = {known: load_named("models", known, ModelSpec) for known in config_names("models")}
    path = expand(name)
    if name in specs:
        spec = specs[name]
        if spec.folder is not None:
            folder = packaged(spec.folder)
            if not (folder / "model_index.json").is_file():
                raise ValueError(f"the files of the {name} model are missing: {folder}")
            return _whole(Source(name, folder, spec), vae, text_encoder)
    elif path.is_dir() and (released_as := release_in(path, specs)):
        spec = released_as
    elif path.is_dir() and (kind := foreign_pipeline(path)):
        raise ValueError(
            f"{name} is a {kind} of diffusers; generate, render, calibrate, plan, compare, verify and doctor take it, "
            f"what was asked for is for this project's own models"
        )
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
            raise ValueError(no_model(name, specs))
        spec = released[name]
    given = {key: source for key, source in {"vae": vae, "text_encoder": text_encoder}.items() if source}
    if "text_encoder" in given and spec.text_encoder is None:
        raise ValueError(f"{name} reads classes, not texts; {text_encoder} has no place in it")
    update = {key: getattr(spec, key).model_copy(update={"source": s, "subfolder": None}) for key, s in given.items()}
    return Source(name, None, spec.model_copy(update=update))


def load_parts(source: Source, *, dtype: torch.dtype) -> dict[str, Any]:
    """Load transformer, VAE and scheduler of a model whose parts stand alone.

    Raises:
        ValueError: Weights or configuration do not fit.
        OSError: A folder or hub id cannot be reached.
    """
    spec = source.spec
    assert spec.transformer is not None and spec.vae is not None
    networks = {"transformer": spec.transformer, "vae": spec.vae}
    loaded = {
        name: network_class(part.network or OPEN_SORA[name]).from_pretrained(
            part.source, subfolder=part.subfolder, dtype=dtype
        )
        for name, part in networks.items()
    }
    labels = class_labels(source.text.source) if loaded["transformer"].reads_classes else None
    return {**loaded, "scheduler": load_scheduler(source), "defaults": spec.defaults.model_dump(), "id2label": labels}


def import_networks(folder: Path) -> None:
    """Import our own modules that a pipeline folder names: diffusers loads classes of imported modules only."""
    for part in read_config(folder / "model_index.json").values():
        module = part[0] if isinstance(part, list) and part else None
        if not isinstance(module, str):
            continue
        if module in MOVED:
            sys.modules.setdefault(module, importlib.import_module(MOVED[module]))
        elif module.startswith("videoaccel.models."):
            with suppress(ModuleNotFoundError):  # diffusers says what is missing
                importlib.import_module(module)


def network_class(name: str) -> Any:
    """The class of this file and name in ``models/``, as in ``latte.Latte``.

    Raises:
        ValueError: There is none.
    """
    file, _, kind = name.partition(".")
    if importlib.util.find_spec(f"videoaccel.models.{file}") is not None:
        found = getattr(importlib.import_module(f"videoaccel.models.{file}"), kind, None)
        if hasattr(found, "from_pretrained"):
            return found
    raise ValueError(f"there is no network {short(name)}: models/{file[:40]}.py with a class {short(kind)}")


def transformer_class(source: Source) -> type[Transformer]:
    """What a model's transformer is, without loading it.

    Raises:
        ValueError: The folder's ``model_index.json`` names none that runs here.
    """
    if source.folder is None:
        assert source.spec.transformer is not None
        return cast(type[Transformer], network_class(source.spec.transformer.network or OPEN_SORA["transformer"]))
    named = read_config(source.folder / "model_index.json").get("transformer")
    module, name = named if isinstance(named, list) and len(named) == 2 else (None, None)
    if not str(module).startswith("videoaccel.models."):
        told = f"a {short(name)} of {short(module)}"
        raise ValueError(f"the transformer in {source.folder} is {told}, which does not run here")
    try:
        return cast(type[Transformer], network_class(f"{str(module).removeprefix('videoaccel.models.')}.{name}"))
    except ValueError as error:
        raise ValueError(f"{source.folder / 'model_index.json'}: {error}") from None


def load_scheduler(source: Source, **fields: Any) -> Any:
    """The schedule of a model, a :class:`videoaccel.models.protocols.Schedule`; see `videoaccel.sampling.kinds`.

    Raises:
        ValueError: It has no such field.
    """
    if source.folder is None:
        return with_fields(SCHEDULES[source.spec.schedule], source.spec.scheduler, fields)
    path = source.folder / "scheduler" / "scheduler_config.json"
    saved = read_config(path)
    with taken_for("a schedule's configuration", path):
        kind = SCHEDULES[kind_named(saved.get("_class_name")) or "rectified_flow"]
        made = with_fields(kind, saved, {})
    return with_fields(kind, saved, fields) if fields else made


def torch_dtype(name: str) -> torch.dtype:
    """The type of this name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def type_on(device: str, default: str) -> str:
    """The type that a model's default becomes on a kind of device: float16 on a CPU is float32.

    Few CPUs have units for float16; on others it takes several times as long as float32 (`docs/decisions.md`).
    """
    return "float32" if device == "cpu" and default == "float16" else default


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
