"""What a pipeline's call takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoaccel.settings.generate import nearest

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
    """

    kind: str
    defaults: Mapping[str, Any]
    required: tuple[str, ...] = ()
    fps: float | None = None

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these that it takes."""
        return next((name for name in names if name in self.defaults), None)

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
    defaults, required = {}, []
    for name, parameter in list(inspect.signature(call).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        empty = parameter.default is parameter.empty
        defaults[name] = None if empty else parameter.default
        if empty:
            required.append(name)
    found = re.search(r"\bfps=(\d+(?:\.\d+)?)", call.__doc__ or "")
    return Signature(kind.__name__, defaults, tuple(required), float(found[1]) if found else None)


def signature_of_blocks(pipe: Any) -> Signature:
    """Of a modular pipeline: what its blocks read."""
    inputs = [one for one in pipe.blocks.inputs if one.name is not None]
    kind = type(pipe).__name__
    return Signature(kind, {one.name: one.default for one in inputs}, tuple(one.name for one in inputs if one.required))
