"""JSON that every reader takes (its standard has neither infinities nor not-a-number), and reading that of others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videoaccel.common.plain_files import read_plain
from videoaccel.common.reading import read_text

LARGEST_ROWS = 4 << 30
"""Bytes of a file with a row a measurement; of a night's work they are some MB."""

DEEPEST = 100
"""Values within values, in JSON; ours have less than ten."""

_MISSHAPEN = (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError, RecursionError)


def to_json(value: Any, **options: Any) -> str:
    """JSON as the standard has it: infinity is the text "inf", not-a-number is null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, **options)


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text.

    Args:
        text: As it was read.
        **options: For `json.loads`.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _depth(value) > DEEPEST:
        raise ValueError("nested too deeply")
    return value


def read_json(path: Path, *, name: str | None = None) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        name: What errors call it; its path unless given.

    Raises:
        OSError: As `videoaccel.common.reading.read_text`.
        ValueError: Likewise; or it is not valid JSON.
    """
    text = read_text(path, name=name)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name or path} is not valid JSON: {error}") from None


def json_lines(path: Path) -> Iterator[Any]:
    """The values of a file with one a line; None for a line that is none, as one that is being written.

    Raises:
        OSError: As `videoaccel.common.plain_files.plain_file`.
        ValueError: Likewise; or it is too large.
    """
    for line in read_plain(path, largest=LARGEST_ROWS).splitlines():
        try:
            yield parse_json(line)
        except ValueError:
            yield None


@contextmanager
def taken_for(what: str, path: Path | str) -> Iterator[None]:
    """Say of a file whose contents turn out to be shaped otherwise that it is not what it was taken for.

    Raises:
        ValueError: With the file's name, in place of whatever the block stumbled over.
    """
    try:
        yield
    except _MISSHAPEN as error:
        if str(path) in str(error):  # it has been said
            raise
        lacks = isinstance(error, KeyError)
        told = f"it has no {error.args[0]!r}" if lacks and error.args else " ".join(str(error).split())
        raise ValueError(f"{path} is {what} that is damaged: {told[:300]}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _depth(value: Any) -> int:
    """How many values lie within each other; no recursion, which is what it keeps others from."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth
