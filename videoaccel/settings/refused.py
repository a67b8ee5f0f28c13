"""Settings that refuse what is wrong in one sentence, from Python as from the command line."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from videoaccel.common.wording import short
from videoaccel.settings.config import Config


def nearest(name: str, known: Sequence[str]) -> str:
    """The known names that are most like this one, as the end of a sentence."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}" if near else ""


_PLAIN = {
    **dict.fromkeys(("int_parsing", "int_from_float", "int_type"), "a whole number is wanted"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number is wanted"),
}
"""What is wrong, by pydantic's kind of error, where its own text speaks of parsing."""


def sentences(
    items: Sequence[dict[str, Any]], *, known: Sequence[str], spelled: Mapping[str, str] | None = None
) -> str:
    """One sentence a field; a field that may be one thing or another has several errors.

    Args:
        items: As pydantic lists them.
        known: Names of all fields.
        spelled: What fields are called where the values came from.
    """
    spelled = spelled or {}
    found: dict[str, list[str]] = {}
    for item in items:
        message = _PLAIN.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        start = ""
        if item["loc"]:
            field = str(item["loc"][0])
            # Our own messages name the value themselves.
            value = "" if item["type"] == "value_error" else f"{short(item['input'])}: "
            if item["type"] == "extra_forbidden":
                value, message = "", f"there is no such setting{nearest(field, known)}"
            start = f"{spelled.get(field, field)}: {value}"
        found.setdefault(start, []).append(message[0].lower() + message[1:])
    return "; ".join(start + ", or ".join(messages) for start, messages in found.items())


class RefusedError(ValueError):
    """One sentence, and what pydantic said, for those who call the fields by other names."""

    def __init__(self, error: ValidationError, *, known: Sequence[str]) -> None:
        self.items, self.known = [dict(item) for item in error.errors()], known
        super().__init__(sentences(self.items, known=known))


class Settings(Config):
    """Base of what a run is told.

    Raises:
        RefusedError: A field is unknown, a value out of range, or two exclude each other.
    """

    if not TYPE_CHECKING:  # editors and type checkers know the fields from pydantic's own

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise RefusedError(error, known=list(type(self).model_fields)) from None


Made = TypeVar("Made", bound=Settings)


def made_of(kind: type[Made], values: Mapping[str, Any], *, spelled: Mapping[str, str]) -> Made:
    """Settings from values that the user knows by other names, such as flags.

    Args:
        kind: Of settings.
        values: By field.
        spelled: What a field is called there.

    Raises:
        ValueError: They are refused; names what the user wrote.
    """
    try:
        return kind(**values)
    except RefusedError as error:
        raise ValueError(sentences(error.items, known=error.known, spelled=spelled)) from None
