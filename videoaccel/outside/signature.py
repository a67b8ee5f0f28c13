"""What a pipeline's call takes."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoaccel.adapters.swap import original
from videoaccel.common.user_warning import warn_user
from videoaccel.settings.refused import nearest

SHOWN = 8
"""Names that a message lists, at most."""


@dataclass(frozen=True)
class Signature:
    """Arguments of a call.

    Attributes:
        kind: Class of the pipeline.
        defaults: By name; None also where there is no default.
        required: Names of those that must be given.
        fps: Frames per second of the clip in the example that its documentation gives; None if there is none.
        swallows: Whether it takes arguments of any other name, without saying which it reads.
    """

    kind: str
    defaults: Mapping[str, Any]
    required: tuple[str, ...] = ()
    fps: float | None = None
    swallows: bool = False

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these that it takes."""
        return next((name for name in names if name in self.defaults), None)

    def check(self, name: str, value: Any, *, known: Collection[str] = ()) -> None:
        """Refuse a name that it does not take, and what is no number for one; a name that nobody can judge is said.

        Args:
            name: Of an argument.
            value: Of it.
            known: Further names that are fine.

        Raises:
            ValueError: It takes no such argument, or it takes any and this is nearly one that it names; or its default
                is a number, and the value is a switch, infinite or NaN.
        """
        if name in self.defaults or name in known:
            usual = self.defaults.get(name)
            number = isinstance(usual, int | float) and not isinstance(usual, bool)
            if number and (isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value))):
                raise ValueError(f"{name} of a {self.kind} is a number, such as {usual:g}, got {str(value).lower()}")
            return
        if not self.swallows or nearest(name, list(self.defaults)):
            raise ValueError(self.missing(name))
        warn_user(f"{self.kind} names no argument {name!r} but takes any: nobody can tell whether it reads this one")

    def missing(self, name: str) -> str:
        """What to say about a name that it does not take."""
        near = nearest(name, list(self.defaults))
        if near:
            return f"{self.kind} takes no argument {name!r}{near}?"
        names = [known for known in self.defaults if not known.startswith(("callback", "return_"))]
        some = ", ".join(names[:SHOWN])
        return f"{self.kind} takes no argument {name!r}; it takes {some}{' and more' if len(names) > SHOWN else ''}"


def signature_of(kind: type) -> Signature:
    """Of a class whose call has arguments by name."""
    call: Any = kind.__call__
    defaults, required, swallows = {}, [], False
    for name, parameter in list(inspect.signature(call).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            swallows = swallows or parameter.kind == parameter.VAR_KEYWORD
            continue
        empty = parameter.default is parameter.empty
        defaults[name] = None if empty else parameter.default
        if empty:
            required.append(name)
    found = re.search(r"\bfps=(\d+(?:\.\d+)?)", call.__doc__ or "")
    return Signature(kind.__name__, defaults, tuple(required), float(found[1]) if found else None, swallows)


def signature_of_blocks(pipe: Any) -> Signature:
    """Of a modular pipeline: what its blocks read."""
    inputs = [one for one in pipe.blocks.inputs if one.name is not None]
    kind = type(pipe).__name__
    return Signature(kind, {one.name: one.default for one in inputs}, tuple(one.name for one in inputs if one.required))


OF_BLOCKS = ("state", "output")
"""What the call of a modular pipeline takes beside what its blocks read."""


def check_calls(pipe: Any, calls: Mapping[str, Mapping[str, Any]]) -> None:
    """Make sure, before anything runs, that arguments of a loaded pipeline's calls have no slip in them.

    Args:
        pipe: The pipeline.
        calls: Arguments by name, by what the call is named in messages.

    Raises:
        ValueError: A call has an argument that the pipeline does not take.
    """
    modular = hasattr(pipe, "load_components")
    signature = signature_of_blocks(pipe) if modular else signature_of(original(type(pipe)))
    for where, call in calls.items():
        for name, value in call.items():
            try:
                signature.check(name, value, known=OF_BLOCKS if modular else ())
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
