"""What is peculiar to released folders: which model a folder is a copy of, and names of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoaccel.common.home import expand
from videoaccel.models.checkpoint import hub_reason, read_config
from videoaccel.sampling.kinds import kind_named
from videoaccel.settings.config import ModelSpec

INDEX = "model_index.json"


def release_in(folder: Path, specs: Mapping[str, ModelSpec]) -> ModelSpec | None:
    """The parts of a release that a folder is a copy of, taken from that folder; None for any other folder.

    The default size is that of the folder's network.
    """
    if not (folder / INDEX).is_file():
        return None
    kind = read_config(folder / INDEX).get("_class_name")
    spec = next((spec for spec in specs.values() if spec.release is not None and spec.release == kind), None)
    if spec is None:
        return None
    parts = {"transformer": spec.transformer, "vae": spec.vae, "text_encoder": spec.text_encoder}
    update = {name: part and part.model_copy(update={"source": str(folder)}) for name, part in parts.items()}
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    schedule = kind_named(scheduler.get("_class_name")) or spec.schedule
    side = _side(folder)
    defaults = spec.defaults.model_copy(update={"height": side, "width": side})
    told: dict[str, Any] = {"scheduler": scheduler, "schedule": schedule, "defaults": defaults}
    return spec.model_copy(update={**update, **told})


def class_labels(source: str) -> dict[str, str]:
    """Names of a model's classes by their number, from the index of a folder or of a repository on the hub.

    Raises:
        OSError: It cannot be reached.
    """
    folder = expand(source)
    path = folder / INDEX if folder.is_dir() else _from_hub(source)
    return read_config(path).get("id2label") or {} if path.is_file() else {}


def _side(folder: Path) -> int:
    """Pixels to a side of the pictures that a network is made for."""
    network, vae = (read_config(folder / part / "config.json") for part in ("transformer", "vae"))
    return int(network["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def _from_hub(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, INDEX))
    except (OSError, ValueError) as error:  # no network, no such repository, no leave to read it
        raise OSError(
            f"{source} is no folder here and could not be had from the Hugging Face hub: {hub_reason(error)}"
        ) from error
