"""What others have written into the folder, taken for what it should be or not at all.

A row that is not understood is passed over and counted: one damaged line, or one that somebody planted, stops nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videoaccel.common.plain_json import parse_json
from videoaccel.rendering.inside import Inside

MIB = 1 << 20


@dataclass
class PassedOver:
    """Counts what was not understood.

    Attributes:
        count: How many names, files and rows.
        first: The first of them, for people.
    """

    count: int = 0
    first: str | None = None

    def add(self, what: str) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or what


def read_said(place: Inside, name: str, *, limit: int = MIB) -> Any:
    """The JSON value in a file; None if there is none, or none that can be read.

    Args:
        place: The folder.
        name: Of the file.
        limit: Bytes that it may have.
    """
    try:
        return parse_json(place.read(name, limit=limit))
    except (OSError, ValueError):
        return None


def text(value: object, *, most: int = 2000) -> str | None:
    r"""A text that can be written as UTF-8, not too long; None if it is none.

    >>> text("a"), text(7), text("\ud800")
    ('a', None, '?')
    """
    if not isinstance(value, str):
        return None
    return value[:most].encode(errors="replace").decode()


def number(value: object) -> float | None:
    """A finite number from 0 on; None if it is none.

    >>> number(1.5), number(float("inf")), number(True), number(10**400), number("1")
    (1.5, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def whole(value: object) -> int | None:
    """A whole number from 0 on, of at most 15 digits; None if it is none.

    >>> whole(3), whole(3.0), whole(-1), whole(10**30)
    (3, None, None, None)
    """
    found = number(value)
    return int(value) if found is not None and isinstance(value, int) and found < 1e15 else None


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}
