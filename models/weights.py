"""Weights from files as people and trainers leave them: in shards, wrapped, with a prefix; and what is no weights."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videoaccel.common.plain_files import check_plain
from videoaccel.common.plain_json import read_json
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import first_line, short

WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "model.pth",
    "model.pt",
    "ema.pt",
)
"""Whole files, the first that is there is read; each may be in shards instead, which an index names."""

_INDEX = ".index"
_SHARD = r"-\d+-of-\d+\."
_LFS = b"version https://git-lfs.github.com/spec/"
_AVERAGED = ("ema", "ema_state_dict", "ema_model", "model_ema")
_WRAPPERS = (*_AVERAGED, "state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.", "ema.", "ema_model.", "model.")


def find_weights(folder: Path, *, variant: str | None = None) -> Path:
    """The file with a folder's weights, or the index of their shards.

    Args:
        folder: Where they are.
        variant: Part of the name, as in ``model.fp16.safetensors``; without it the only one there is will do.

    Raises:
        FileNotFoundError: There is none.
        ValueError: There are several variants and none was asked for.
    """
    if variant is None:
        if found := _find(folder, None):
            return found
        variants = sorted(_variants(folder))
        if len(variants) > 1:
            raise ValueError(f"{folder} has weights in the variants {', '.join(variants)}; say which, as `variant`")
        variant = variants[0] if variants else None
    if variant and (found := _find(folder, variant)):
        return found
    named = f" of the variant {variant}" if variant else ""
    raise FileNotFoundError(f"{folder} has no weights{named}; looked for {', '.join(WEIGHT_FILES)}, whole or in shards")


def _find(folder: Path, variant: str | None) -> Path | None:
    return next((folder / name for name in _names(variant) if (folder / name).is_file()), None)


def _names(variant: str | None) -> list[str]:
    found = []
    for name in WEIGHT_FILES:
        stem, _, end = name.rpartition(".")
        middle = f".{variant}" if variant else ""
        # diffusers puts the variant behind "index", transformers before the ending.
        found += [f"{stem}{middle}.{end}", f"{name}{_INDEX}{middle}.json", f"{stem}{middle}.{end}{_INDEX}.json"]
    return found


def _variants(folder: Path) -> set[str]:
    found = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        for name in WEIGHT_FILES:
            stem, _, end = name.rpartition(".")
            text = path.name
            if text.startswith(f"{name}{_INDEX}.") and text.endswith(".json"):
                found.add(text.removeprefix(f"{name}{_INDEX}.").removesuffix(".json"))
            elif re.fullmatch(rf"{re.escape(stem)}\.[^.]+\.{end}", text) and not re.search(_SHARD, text):
                found.add(text.split(".")[1])
    return found


def shards_of(index: Path) -> list[str]:
    """Names of the files that an index names, each once.

    Raises:
        ValueError: It is no index.
    """
    check_pointer(index)
    try:
        files = sorted({str(name) for name in read_json(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards: {error}") from None
    if wrong := [name for name in files if Path(name).name != name or len(name.encode(errors="replace")) > 255]:
        raise ValueError(f"{index} names {short(wrong[0])}, which is no file beside it")
    return files


def bytes_of(weights: Path) -> int:
    """Bytes of a file of weights, or of all shards that an index names.

    Raises:
        ValueError: A shard is not there, or the index is none; or one is a Git LFS pointer.
    """
    files = _shard_paths(weights) if _is_index(weights) else [weights]
    for file in files:
        check_pointer(file)
    return sum(file.stat().st_size for file in files)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict: from a safetensors file, with ``weights_only=True`` from a pickled one, or from an index.

    Of a dictionary with averaged weights beside others (``ema`` beside ``module`` or ``model``) the averaged are taken,
    which are those to sample with.

    Raises:
        ValueError: A file is truncated, missing, a Git LFS pointer, no checkpoint, or holds something else than named
            tensors.
    """
    if _is_index(path):
        return _shards(path)
    check_pointer(path)
    check_plain(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file (truncated?): {first_line(error)}") from error
    except Exception as error:  # torch.load raises many kinds, by file format
        raise ValueError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    state = _unwrapped(state, path)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: expected names with tensors, found {type(state).__name__}")
    return dict(state)


def check_pointer(path: Path) -> None:
    """Refuse what `git clone` leaves in place of a large file where Git LFS is not installed.

    Raises:
        ValueError: It is one.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise ValueError(f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` fetches that")


def _is_index(path: Path) -> bool:
    return _INDEX in path.suffixes and path.suffix == ".json"


def _shard_paths(index: Path) -> list[Path]:
    files = shards_of(index)
    for number, name in enumerate(files, start=1):
        if not (index.parent / name).is_file():
            raise ValueError(f"{index.parent / name} is missing, shard {number} of the {len(files)} of {index.name}")
    return [index.parent / name for name in files]


def _shards(index: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in _shard_paths(index):
        found.update(read_state(path))
    wanted = read_json(index)["weight_map"]
    if lost := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{index.parent / wanted[lost[0]]} should hold {lost[0]}, as {index.name} says, and does not")
    return found


def _unwrapped(state: Any, path: Path) -> Any:
    while isinstance(state, Mapping):
        inside = [name for name in _WRAPPERS if isinstance(state.get(name), Mapping) and state[name]]
        if not inside:
            break
        if inside[0] in _AVERAGED and len(inside) > 1:
            warn_user(f"{path} holds {' and '.join(inside)}; the averaged weights, {inside[0]}, are taken")
        state = state[inside[0]]
    return state


def without_prefix(
    state: dict[str, Tensor], *, fits: Callable[[dict[str, Tensor]], bool], source: Path | str
) -> dict[str, Tensor]:
    """Take off a prefix that all names share (``module.``, ``_orig_mod.``, ...) if they then fit, with a warning.

    Args:
        state: Weights by name.
        fits: Whether weights have the names that are wanted.
        source: What the warning calls them.
    """
    found, taken = state, ""
    while not fits(found):
        prefix = next((p for p in _PREFIXES if found and all(name.startswith(p) for name in found)), None)
        if prefix is None:
            return state
        found, taken = {name.removeprefix(prefix): value for name, value in found.items()}, taken + prefix
    if taken:
        warn_user(f"{source}: the prefix {taken!r} was taken off the names of all weights")
    return found
