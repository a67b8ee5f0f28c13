"""Weights out of a TorchScript archive without running it: an archive is a program, and loading one runs it.

OpenAI's CLIP comes as one. What is read here is the pickle of its modules, by an unpickler that knows tensors, numbers
and texts; classes of the archive become empty shells that keep their attributes, and their code is never looked at.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_DEPTH = 100  # of modules in modules


class _Shell:
    """An object of the archive: what it keeps, without what it does."""

    def __setstate__(self, state: Any) -> None:
        self.kept = state if isinstance(state, dict) else {}


class _Tensors(pickle.Unpickler):
    """Knows tensors alone; everything else that a pickle could call is refused."""

    def __init__(self, data: bytes, storage: Callable[[str, torch.dtype], Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Shell
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if module == "torch.jit._pickle":  # build_intlist and its like, restore_type_tag
            return _first
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdecimal():
            raise pickle.UnpicklingError("a storage is wanted")
        return self.storage(str(key), dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # torch refuses what leaves the storage


def _first(value: Any, *_: Any) -> Any:
    return value


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("/constants.pkl") for name in file.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive's modules by name, on the CPU, as ``state_dict`` names them; none of it is run.

    Raises:
        ValueError: It holds what is no tensor, or is damaged.
    """
    with zipfile.ZipFile(path) as file:
        root = next(name.partition("/")[0] for name in file.namelist() if name.endswith("/data.pkl"))
        known: dict[tuple[str, torch.dtype], Tensor] = {}

        def storage(key: str, dtype: torch.dtype) -> Tensor:
            if (key, dtype) not in known:
                entry = file.getinfo(f"{root}/data/{key}")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("its tensors are compressed, as torch never does")
                data = bytearray(file.read(entry))
                known[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return known[key, dtype]

        wrong = (pickle.UnpicklingError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, EOFError)
        try:
            found = _Tensors(file.read(f"{root}/data.pkl"), storage).load()
        except wrong as error:
            raise ValueError(f"it is no archive of tensors: {error}") from error
    return dict(_named(found, "", 0))


def _named(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth > _DEPTH:
        raise ValueError("its modules are nested too deeply")
    for name, value in getattr(module, "kept", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Shell):
            yield from _named(value, f"{prefix}{name}.", depth + 1)
