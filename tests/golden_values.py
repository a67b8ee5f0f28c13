"""Reads the reference values that tests marked ``golden`` compare with.

The folder is ``VIDEOACCEL_GOLDEN``, else ``tests/golden``. Tests take cases, configurations and shapes from its files,
so another folder of the same format needs no change here or there. A file that is not there fails the tests that
need it, one by one and with its name, and leaves the collection of the others alone::

    @pytest.mark.golden
    @pytest.mark.parametrize("golden", golden_values.cases("rflow", "timesteps"))
    def test_timesteps(golden: Case) -> None:
        case = golden.get()
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One case of a golden file, or the reason why there is none."""

    name: str
    value: Any = None
    problem: str = ""

    def get(self) -> Any:
        """The case as the file has it; fails the test where it has none."""
        if self.problem:
            pytest.fail(self.problem, pytrace=False)
        return self.value


def folder() -> Path:
    """Where the golden files lie."""
    return Path(os.environ.get("VIDEOACCEL_GOLDEN") or Path(__file__).parent / "golden")


def load_json(name: str) -> Any:
    """The contents of ``NAME.json``."""
    return json.loads(_existing(f"{name}.json").read_text(encoding="utf-8"))


def load_tensors(name: str) -> dict[str, Tensor]:
    """All tensors of ``NAME.safetensors``; do not write into them, they are read once for all tests."""
    return _tensors(_existing(f"{name}.safetensors"))


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix such as "weights" or "base.in", with that prefix and its dot cut off."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def cases(name: str, *path: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: the entries of the list or mapping at ``path`` in ``NAME.json``.

    Entries of a mapping come as ``(key, value)``. An empty list gives no case: pytest skips the test.
    """
    label = "-".join([name, *path])
    try:
        found = load_json(name)
        for key in path:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"golden values {'/'.join([name, *path])} in {folder()}: {type(error).__name__}: {error}"
        return [pytest.param(Case(label, problem=problem), id=f"{label}-missing")]
    entries = list(found.items()) if isinstance(found, dict) else list(found)
    return [pytest.param(Case(f"{label}-{i}", entry), id=_id(i, entry)) for i, entry in enumerate(entries)]


def _id(i: int, entry: Any) -> str:
    name = entry[0] if isinstance(entry, tuple) else entry.get("name", "") if isinstance(entry, dict) else ""
    return f"{i}-{name}" if name else str(i)


def _existing(name: str) -> Path:
    path = folder() / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; VIDEOACCEL_GOLDEN names the folder of golden values")
    return path


@lru_cache(maxsize=2)
def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)
