"""One entry that stands for several jobs: every combination of the values that its fields sweep over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from videoaccel.settings.generate import GenerateSettings

MOST = 100_000
"""Jobs that one entry may stand for; more are taken for a slip."""

_FAR = 2**64  # seeds end before

_RANGE = ({"from", "to"}, {"from", "to", "step"})
_OF_MANY = ("images", "references", "seeds", "lora")  # a list is one value of theirs
_INSIDE = ("accel_options", "scheduler")  # sweeps may stand inside


def expand(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of swept values, the last field varying fastest.

    A field sweeps over ``{from: 0, to: 4}`` (both ends count; ``step`` may stand beside), over ``{each: [...]}``, and,
    unless lists are what it takes, over a plain list.

    Raises:
        ValueError: A sweep is empty or too long, or its ends are no numbers.

    >>> [job["seed"] for job in expand({"seed": {"from": 0, "to": 4, "step": 2}})]
    [0, 2, 4]
    >>> list(expand({"steps": [10, 30], "accel_options": {"period": {"each": [2]}}}))
    [{'steps': 10, 'accel_options': {'period': 2}}, {'steps': 30, 'accel_options': {'period': 2}}]
    """
    choices = {name: _choices(name, value) for name, value in values.items()}
    if (count := math.prod(map(len, choices.values()))) > MOST:
        raise ValueError(f"its sweeps make {count:,} jobs; at most {MOST:,} can come of one entry")
    return (dict(zip(choices, found, strict=True)) for found in itertools.product(*choices.values()))


def _choices(name: str, value: Any) -> list[Any]:
    if isinstance(value, dict):
        if set(value) == {"each"}:
            return _listed(name, value["each"])
        if set(value) in _RANGE:
            return _numbers(name, value)
        if name in _INSIDE:
            return list(expand(value))
    if isinstance(value, list) and name in GenerateSettings.model_fields and name not in _OF_MANY:
        return _listed(name, value)
    return [value]


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name}: a sweep needs a list with at least one value, got {values!r}")
    return values


def _numbers(name: str, ends: Mapping[str, Any]) -> list[Any]:
    first, last, step = ends["from"], ends["to"], ends.get("step", 1)
    if not all(isinstance(end, int | float) and not isinstance(end, bool) and -_FAR < end < _FAR
               for end in (first, last, step)):  # fmt: skip
        raise ValueError(f"{name}: a sweep goes from a number to a number, got {dict(ends)}")
    if step <= 0 or last < first:
        raise ValueError(f"{name}: a sweep goes upwards in steps above 0, got {dict(ends)}")
    if (count := (last - first) / step + 1) > MOST:
        raise ValueError(f"{name}: a sweep of {count:,.0f} values; at most {MOST:,} come of one entry")
    return [first + number * step for number in range(math.floor(count + 1e-9))]
