"""What can be found wrong with methods before torch is imported: names, fields, targets, also of two and in files."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from videoaccel.common.home import expand
from videoaccel.common.plugins import names_in
from videoaccel.settings.config import config_folder, config_names, read_yaml
from videoaccel.settings.method_fields import METHODS, SIGN, check_method_fields, check_targets, fields_of, nested


def check_method_name(name: str) -> None:
    """Make sure that there is a method of this name, two with a plus between, one in the box, or a YAML file.

    Raises:
        ValueError: There is none; says what was meant.
        FileNotFoundError: The file is not there.
    """
    methods, boxed = names_in(METHODS), config_names("accel")
    if name in boxed:
        return
    path = expand(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise FileNotFoundError(f"configuration file {path} does not exist")
        return
    for one in (part.strip() for part in name.split(SIGN)):
        if one in methods:
            continue
        near = difflib.get_close_matches(one, methods, n=1, cutoff=0.8)
        in_box = difflib.get_close_matches(one, boxed, n=1)
        if in_box and not near:
            raise ValueError(f"unknown method {one!r}; did you mean {in_box[0]!r}, which is in the box?")
        near = difflib.get_close_matches(one, methods, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(methods)}"
        raise ValueError(f"unknown method {one!r}; {hint}")


def check_fields(name: str, fields: Mapping[str, Any], targets: Collection[str] = ()) -> None:
    """Make sure that a method can be told this, as far as the methods' files say.

    Args:
        name: One, two with a plus between, one in the box, or a YAML file, whose own fields are looked at, too.
        fields: Given beside it.
        targets: Names of those that are to be kept.

    Raises:
        ValueError: There is no such field or target, or a value is out of its bounds.
    """
    path = expand(name)
    if name in names_in(METHODS) or SIGN in name:
        method = name
    elif name in config_names("accel"):
        method = str(read_yaml(config_folder("accel") / f"{name}.yaml").get("method"))
    elif path.suffix in (".yaml", ".yml"):
        method = _check_file(name)
    else:
        return
    check_targets(method, targets, asked=name)
    _check_fields(method, fields)


def _check_file(name: str) -> str:
    """The method that a YAML file names, whose fields are right as far as that can be told."""
    own = dict(read_yaml(path := expand(name)))
    method = own.pop("method", None)
    if not isinstance(method, str):
        raise ValueError(f"{path} must say its method, one of {', '.join(names_in(METHODS))}")
    try:
        if SIGN not in method and method not in names_in(METHODS):
            check_method_name(method)
        _check_fields(method, own)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return method


def _check_fields(method: str, fields: Mapping[str, Any]) -> None:
    if SIGN not in method:
        check_method_fields(method, fields)
        return
    names = [part.strip() for part in method.split(SIGN)]
    for name in names:
        check_method_name(name)
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"a chain is two different methods, such as soda+sada, got {method!r}")
    given = nested(fields, owner=lambda field: next((n for n in names if field in fields_of(n).model_fields), names[0]))
    if other := sorted(given.keys() - set(names)):
        raise ValueError(f"{method} has no method {other[0]!r}; give fields as {names[0]}.field or {names[1]}.field")
    for name, own in given.items():
        check_method_fields(name, own)
