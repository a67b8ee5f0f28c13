"""The JSON file beside a clip: how it was made, and all that is needed to make it again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from videoaccel import __version__
from videoaccel.common.home import expand
from videoaccel.common.plain_json import read_json
from videoaccel.generation.loading import Source
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.jobs.samples import Sample
from videoaccel.session.policy import Policy
from videoaccel.session.registry import titled
from videoaccel.settings.config import Part, validate
from videoaccel.settings.generate import GenerateSettings

FORMAT = 1
LIBRARIES = ("torch", "diffusers", "transformers", "av", "numpy")

_MODEL_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".json", ".model")
_BLOCK = 1 << 20  # bytes
_TAKES = "--from takes the .json that was written beside a clip"
_NEEDED = ("settings", "model", "inputs", "versions", "machine", "output")


def titles(settings: GenerateSettings, policy: Policy) -> dict[str, str]:
    """What a method was asked for by, for a sidecar, if that was a configuration."""
    title = titled(settings.accel or policy.name, policy.name)
    return {} if title == policy.name else {"title": title}


class _Part(BaseModel):
    """A part of a sidecar; what nobody asks for may be anything."""

    model_config = ConfigDict(extra="allow")


class _Model(_Part):
    files: dict[str, str | None]


class _Machine(_Part):
    platform: str


class _Output(_Part):
    file: str
    sha256: str | None = None


class _Record(_Part):
    """What of a sidecar is read again."""

    settings: dict[str, Any]
    model: _Model
    inputs: dict[str, str]
    versions: dict[str, str | None]
    machine: _Machine
    output: _Output


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says.

    Attributes:
        path: Where it is.
        settings: To make the clip again; values as in the file, not yet checked.
        record: All of it.
    """

    path: Path
    settings: Mapping[str, Any]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Sidecar:
        """Read a sidecar.

        Raises:
            OSError: It is not there, or cannot be read.
            ValueError: It is none.
        """
        path = Path(path)
        try:
            record = read_json(path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise type(error)(f"{error}; {_TAKES}") from None
        except ValueError as error:
            raise ValueError(f"{error}; {_TAKES}") from None
        whole = isinstance(record, dict) and all(isinstance(record.get(key), dict) for key in _NEEDED)
        if not (whole and record.get("format") == FORMAT):
            raise ValueError(f"{path} is not the sidecar of a clip (format {FORMAT}, with {', '.join(_NEEDED)})")
        validate(_Record, record, source=str(path))
        return cls(path, record["settings"], record)

    def check(self, *, model: Mapping[str, str | None], inputs: Mapping[str, str]) -> list[str]:
        """Compare what made the clip with what is here.

        Returns:
            Differences that may or may not change the clip: versions, device, threads.

        Raises:
            ValueError: The model's files or the inputs are others, so that it cannot become the same clip.
        """
        was = self.record
        for what, there, here in (("model file", was["model"]["files"], model), ("input", was["inputs"], inputs)):
            if changed := [name for name in sorted({*there, *here}) if not _same(there, here, name)]:
                more = f", and {len(changed) - 1} more" if changed[1:] else ""
                raise ValueError(
                    f"{self.path} was made with other {what}s: {changed[0]} {_change(there, here, changed[0])}{more}; "
                    f"the same clip cannot come of it"
                )
        now = versions() | {"platform": platform.platform()}
        then = {**was["versions"], "platform": was["machine"]["platform"]}
        return [
            f"{name} was {then.get(name)}, here it is {here}" for name, here in now.items() if then.get(name) != here
        ]


def _same(there: Mapping[str, str | None], here: Mapping[str, str | None], name: str) -> bool:
    # None: a part that was not on the machine because the text states came from the cache.
    folder = name.split("/")[0]
    absent = any(folder in files and files[folder] is None for files in (there, here))
    return absent or (name in there and name in here and there[name] == here[name])


def _change(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> str:
    if name not in here:
        return "is missing here"
    return "has changed" if name in there else "was not there"


def recipe(settings: GenerateSettings, batch: Sequence[Sample], row: int) -> dict[str, Any]:
    """Settings that make one clip of a batch again; its neighbours are made too where its last bits depend on them."""
    one = len(batch) == 1
    alone: dict[str, Any] = {"seed": batch[row].seed, "seeds": (), "keep": None}
    together: dict[str, Any] = {"seed": 0, "seeds": tuple(sample.seed for sample in batch), "keep": row}
    outputs = batch[row].outputs
    assert outputs is not None
    update = {
        "prompt": tuple(sample.prompt for sample in batch),
        "vbench": None,
        "samples": 1,
        "batch_size": len(batch),
        "output": outputs.clip,
        **(alone if one else together),
    }
    return settings.model_copy(update=update).model_dump(mode="json")


def describe(order: WorkOrder, batch: Sequence[Sample], row: int, *, made: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar of one clip.

    Args:
        order: The run.
        batch: The samples that were made together.
        row: Which of them.
        made: What only the run knows: ``output``, ``model``, ``inputs``, ``seconds``, ``peak_memory_bytes``.
    """
    sample, settings = batch[row], order.settings
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "prompt": sample.prompt,
        "texts": list(sample.texts),
        "seed": sample.seed,
        "settings": recipe(settings, batch, row),
        **made,
        "versions": versions(),
        "machine": {
            "device": settings.device,
            "name": device_name(torch.device(str(settings.device))),
            "threads": torch.get_num_threads(),
            "attention": settings.attention,
            "platform": platform.platform(),
        },
    }


def versions() -> dict[str, str | None]:
    """Of Python, this package and the libraries a clip depends on; None for one that is not installed."""
    found: dict[str, str | None] = {"videoaccel": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def model_files(source: Source, *, hashed: Callable[[Path], str] | None = None) -> dict[str, str | None]:
    """sha256 of every weight, configuration and tokenizer file of a model, by part and name.

    None stands for a whole part that is not on this machine.

    Args:
        source: The model.
        hashed: Gives a file's sha256; `file_hash` unless given.
    """
    hashed = hashed or file_hash
    if source.folder is not None:
        return dict(_hashes(source.folder, prefix="", hashed=hashed))
    spec = source.spec
    parts = {"transformer": spec.transformer, "vae": spec.vae, "text_encoder": spec.text_encoder}
    found: dict[str, str | None] = {}
    for name, part in parts.items():
        if part is None:  # names of classes, in the index
            continue
        folder = _folder_of(part)
        found |= {name: None} if folder is None else dict(_hashes(folder, prefix=f"{name}/", hashed=hashed))
    index = None if spec.text_encoder is not None else _folder_of(source.text)
    return found if index is None else found | {"model_index.json": hashed(index / "model_index.json")}


def model_hash(files: Mapping[str, str | None]) -> str:
    """One sha256 for all files of a model."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file; of a folder, of the names and contents of the files in it."""
    digest = hashlib.sha256()
    if path.is_dir():
        for name in sorted(item for item in path.iterdir() if item.is_file()):
            digest.update(f"{name.name} {file_hash(name)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _hashes(folder: Path, *, prefix: str, hashed: Callable[[Path], str]) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            path.suffix in _MODEL_SUFFIXES
            and (path.is_file() or path.is_dir())
            and not any(part.startswith(".") for part in name.parts)
        ):
            yield f"{prefix}{name.as_posix()}", hashed(path)


def _folder_of(part: Part) -> Path | None:
    """Where a part's files are: a folder as it is, a hub id in the hub's cache."""
    folder = expand(part.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(part.source, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
    return folder / part.subfolder if part.subfolder else folder
