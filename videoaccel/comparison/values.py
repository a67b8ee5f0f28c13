"""What a comparison is told on the command line, checked before torch is there: methods, their values, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videoaccel.common.plugins import names_in
from videoaccel.common.reading import parse_yaml
from videoaccel.settings.config import config_names
from videoaccel.settings.early_methods import check_fields
from videoaccel.settings.method_fields import METHODS

EXACT, OFF, ALL = "exact", "off", "all"

CONTROLS = ("fewer_steps", "fixed_linear")
"""What a method has to beat to be worth its while; part of every comparison unless left out on purpose."""

Values = Mapping[str, Sequence[Any]]
"""Fields of a method with the values that they shall have."""


def read_values(items: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Fields by method, from texts such as ``fora.period=2,3,4``.

    Raises:
        ValueError: A text is of another form.

    >>> read_values(["fora.period=2,3", "soda.schedule=sites", "soda.anchors=8,12"])
    {'fora': {'period': [2, 3]}, 'soda': {'schedule': ['sites'], 'anchors': [8, 12]}}
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        method, dot, field = name.strip().partition(".")
        if not (equals and dot and method and field and text.strip()):
            raise ValueError(f"a setting is method.field=value,value,..., such as fora.period=2,3,4; got {item!r}")
        try:
            values = parse_yaml(f"[{text}]")
        except ValueError as error:
            raise ValueError(f"the values of {name.strip()} are not valid YAML ({error}), got {text!r}") from None
        if field in found.setdefault(method, {}):
            raise ValueError(f"{name.strip()} is given twice; put all its values behind one equals sign")
        found[method][field] = values
    return found


def names_of(methods: Sequence[str], *, controls: bool) -> list[str]:
    """Names of all methods that are compared, each once.

    >>> names_of(["fora", "fora"], controls=True)
    ['fora', 'fewer_steps', 'fixed_linear']
    """
    wanted = [name for given in methods for name in (names_in(METHODS) if given == ALL else [given])]
    return list(dict.fromkeys([*wanted, *(CONTROLS if controls else ())]))


def check_values(names: Sequence[str], values: Mapping[str, Values]) -> None:
    """Make sure that values belong to methods that are compared, and that one field at most has several.

    Raises:
        ValueError: They do not.
    """
    if left := [name for name in values if name not in names]:
        raise ValueError(f"values are given for {left[0]}, which is not among the methods {', '.join(names)}")
    for method, fields in values.items():
        boxed = method in config_names("accel")
        for field, some in fields.items() if boxed else ():
            if len(some) != 1:
                raise ValueError(f"{method}, in the box, is run once: {field} takes one value, not {len(some)}")
        several = [field for field, some in fields.items() if len(some) > 1]
        if len(several) > 1:
            raise ValueError(f"{method}: one field may have several values, not {' and '.join(several)}")
        if empty := [field for field, some in fields.items() if not some]:
            raise ValueError(f"{method}.{empty[0]} has no values")


def check_told(names: Sequence[str], values: Mapping[str, Values]) -> None:
    """Make sure that methods have the fields that values are for, as `check_fields` does.

    Raises:
        ValueError: One has not, or a value is out of its bounds.
    """
    check_values(names, values)
    for method, fields in values.items():
        for field, some in fields.items():
            for value in some:
                check_fields(method, {field: value})


def check_counts(*, seeds: Sequence[int], speedups: Sequence[float], timed_clips: int, repeats: int) -> None:
    """Make sure that there is something to make and to time.

    Raises:
        ValueError: There is not, or a speed-up is none.
    """
    if not seeds:
        raise ValueError("there is no seed; give at least one")
    if wrong := [value for value in speedups if not 1 <= value < float("inf")]:
        raise ValueError(f"a speed-up must be a number of at least 1, got {wrong[0]:g}")
    if timed_clips < 1 or repeats < 0:
        raise ValueError(f"at least 1 clip is timed, 0 times or more; got {timed_clips} and {repeats}")
