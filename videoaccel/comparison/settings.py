"""What a comparison runs: every method at every value of its knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoaccel.common.reading import parse_yaml
from videoaccel.session.chain import SIGN, nested
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, knob_of, make_policy, named_method, policy_names
from videoaccel.settings.config import config_names

EXACT, OFF, ALL = "exact", "off", "all"

CONTROLS = ("fewer_steps", "fixed_linear")
"""What a method has to beat to be worth its while; part of every comparison unless left out on purpose."""

Values = Mapping[str, Sequence[Any]]
"""Fields of a method with the values that they shall have."""


@dataclass(frozen=True)
class Setting:
    """A method as it is run.

    Attributes:
        method: Its name; ``exact`` is the model as it is.
        name: What sets it apart from the method's others, such as ``period=2``; empty where there are none.
        policy: None for ``exact``.
    """

    method: str
    name: str = ""
    policy: Policy | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Method and name."""
        return self.method, self.name

    def __str__(self) -> str:
        return f"{self.method} {self.name}".strip()


def choose_settings(
    methods: Sequence[str], *, values: Mapping[str, Values] | None = None, controls: bool = True
) -> tuple[Setting, ...]:
    """Every method at every value of its knob, ``exact`` first.

    Args:
        methods: Names; ``exact`` is always there, ``all`` names every method, ``soda+sada`` two at once. What is
            in the box, such as ``fora-sada``, is run once, with the values given over its own.
        values: By method fields in place of its sweep: one that has several values is the knob, the others are fixed.
            A method with none of several is swept with the others fixed, or run once where these exclude its knob.
        controls: Add the `CONTROLS`.

    Raises:
        ValueError: There is no such method or field, a value is out of range, or two fields have several values.
    """
    values = values or {}
    wanted = [name for given in methods for name in (policy_names() if given == ALL else [given])]
    names = list(dict.fromkeys([*wanted, *(CONTROLS if controls else ())]))
    boxed = set(config_names("accel"))
    for name in [*names, *values]:
        if name != EXACT and name not in boxed:
            knob_of(name)
    if left := [name for name in values if name not in names]:
        raise ValueError(f"values are given for {left[0]}, which is not among the methods {', '.join(names)}")
    settings = [Setting(EXACT)]
    for name in names:
        if name != EXACT:
            settings += (_of_box if name in boxed else _of_method)(name, values.get(name, {}))
    return tuple({setting.key: setting for setting in settings}.values())


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


def _of_method(method: str, values: Values) -> list[Setting]:
    several = [field for field, given in values.items() if len(given) > 1]
    if len(several) > 1:
        raise ValueError(f"{method}: one field may have several values, not {' and '.join(several)}")
    if empty := [field for field, given in values.items() if not given]:
        raise ValueError(f"{method}.{empty[0]} has no values")
    fixed = {field: given[0] for field, given in values.items() if len(given) == 1}
    own, usual = knob_of(method)
    knob = several[0] if several else own
    sweep: Sequence[Any] = values.get(knob, usual)
    if knob in fixed or not knob or not sweep:
        return [_setting(method, fixed)]
    try:
        return [_setting(method, {knob: value, **fixed}) for value in sweep]
    except ValueError:
        if several or not fixed:
            raise
        return [_setting(method, fixed)]  # a field that stands in for the knob, such as soda's anchors


def _of_box(name: str, values: Values) -> list[Setting]:
    for field, some in values.items():
        if len(some) != 1:
            raise ValueError(f"{name}, in the box, is run once: {field} takes one value, not {len(some)}")
    method, own = named_method(name)
    given = {field: value for field, (value,) in values.items()}
    fields = beside_file(own, nested(given) if SIGN in method else given)
    return [Setting(name, _text(given), make_policy(method, **fields))]


def _setting(method: str, fields: Mapping[str, Any]) -> Setting:
    return Setting(method, _text(fields), make_policy(method, **fields))


def _text(fields: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in fields.items()
    )
