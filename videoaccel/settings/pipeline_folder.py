"""Whose pipeline a folder holds, told from its ``model_index.json`` alone. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoaccel.common.plain_json import read_json
from videoaccel.settings.config import ModelSpec, config_names, load_named

INDEX, MODULAR = "model_index.json", "modular_model_index.json"
OURS = "VideoPipeline"
CLASS = "_class_name"


def read_index(path: Path) -> dict[str, Any]:
    """What a pipeline's index says.

    Raises:
        ValueError: It is no JSON object.
        OSError: It cannot be read.
    """
    index = read_json(path)
    if not isinstance(index, dict):
        raise ValueError(f"{path} holds a {type(index).__name__}, not an object")
    return index


def foreign_pipeline(folder: Path) -> str | None:
    """The class of a folder's pipeline if it is neither ours nor a release that we run ourselves; None if it is.

    Raises:
        ValueError: Its index is not valid.
    """
    name = next((name for name in (INDEX, MODULAR) if (folder / name).is_file()), None)
    if name is None:
        return None
    index = read_index(folder / name)
    said = index.get(CLASS)
    kind = said[-1] if isinstance(said, list) and said else said
    network = index.get("transformer")
    ours = isinstance(network, list) and bool(network) and str(network[0]).startswith("videoaccel.")
    return None if kind is None or kind == OURS or ours or kind in releases() else str(kind)


def releases() -> dict[str, str]:
    """Classes of diffusers' pipelines whose released folders run here by our own networks, with our name of each."""
    specs = {name: load_named("models", name, ModelSpec) for name in config_names("models")}
    return {spec.release: name for name, spec in specs.items() if spec.release is not None}
