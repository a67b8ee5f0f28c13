"""What a comparison runs: every method at every value of its knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoaccel.comparison.values import EXACT, Values, check_values, names_of
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, knob_of, make_policy, named_method
from videoaccel.settings.config import config_names
from videoaccel.settings.method_fields import SIGN, nested


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
    names = names_of(methods, controls=controls)
    boxed = set(config_names("accel"))
    for name in [*names, *values]:
        if name != EXACT and name not in boxed:
            knob_of(name)
    check_values(names, values)
    settings = [Setting(EXACT)]
    for name in names:
        if name != EXACT:
            settings += (_of_box if name in boxed else _of_method)(name, values.get(name, {}))
    return tuple({setting.key: setting for setting in settings}.values())


def _of_method(method: str, values: Values) -> list[Setting]:
    several = [field for field, given in values.items() if len(given) > 1]
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
