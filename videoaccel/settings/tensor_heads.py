"""What a file of tensors says of itself, read without torch: what it is, and what it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoaccel.common.plain_files import plain_file
from videoaccel.common.plain_json import parse_json

PRIOR, ROUTERS = "videoaccel-prior-1", "videoaccel-routers-1"
"""Formats of files of calibrated errors, and of trained routers."""

NETWORK = "network"
"""In what a prior was made for, the network's configuration; one that was made before it was kept holds for any."""

_LARGEST = 100_000_000
"""Bytes of a head; the library that reads these files takes no larger one either."""


def head_of(path: Path) -> dict[str, Any]:
    """The head of a safetensors file: tensors by name, and ``__metadata__``.

    Raises:
        OSError: The file is not there, or cannot be read.
        ValueError: It is of another kind.
    """
    with plain_file(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_LARGEST, os.fstat(file.fileno()).st_size - 8):
            raise ValueError(f"{path} is not a safetensors file, or is cut short")
        try:
            head = parse_json(file.read(size))
        except ValueError:
            head = None
    if not isinstance(head, dict) or not isinstance(head.get("__metadata__", {}), dict):
        raise ValueError(f"{path} is not a safetensors file, or is damaged")
    return head


def check_format(path: Path, wanted: str, *, what: str) -> Mapping[str, Any]:
    """What a file of ours says that it is about.

    Args:
        path: The file.
        wanted: Its format.
        what: What such a file is, as in "is no prior".

    Raises:
        OSError: The file cannot be read.
        ValueError: It is something else.
    """
    try:
        told = head_of(path).get("__metadata__", {})
    except ValueError:
        raise ValueError(f"{path} is {what}: not a safetensors file, or damaged") from None
    if told.get("format") != wanted:
        raise ValueError(f"{path} is {what} of this version (format {wanted})")
    try:
        about = parse_json(told["about"])
    except (KeyError, TypeError, ValueError):
        about = None
    return about if isinstance(about, dict) else {}  # what is wrong with it is said where it is read whole
