"""Networks beside the denoiser whose outputs go into it, once an evaluation: ControlNets.

In an evaluation that is forecast nobody looks at their outputs: the last ones are handed out in their place. Where the
denoiser has to be computed after all, the call is made up for, and the outputs take the places of those handed out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from videoaccel.adapters.outputs import Output, taken_apart
from videoaccel.adapters.streams import Stream

NETWORKS = ("controlnet",)
"""Names that pipelines give them. T2I and IP adapters are called before the loop, once."""

STALE = "beside a ControlNet's last output"


@dataclass(frozen=True)
class _Owed:
    """A call that was answered without the network."""

    stream: Stream
    call: Callable[[], Any]
    given: Output


class Sides:
    """The last outputs of each stream of such calls.

    Attributes:
        peak_bytes: Most memory that was held.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._held: dict[Stream, Output] = {}
        self._owed: list[_Owed] = []

    def keep(self, stream: Stream, output: Any) -> None:
        """A call was computed."""
        if (parts := taken_apart(output)) is None:
            self._held.pop(stream, None)
            return
        self._held[stream] = parts
        self.peak_bytes = max(self.peak_bytes, sum(one.nbytes for one in self._held.values()))

    def answer(self, stream: Stream, call: Callable[[], Any]) -> Any:
        """The last output of a call; None if there is none. ``call`` makes it, if that should be wanted yet."""
        if (held := self._held.get(stream)) is None:
            return None
        self._owed.append(_Owed(stream, call, held))
        return held.whole()

    def over(self) -> None:
        """The evaluation is over: nothing is owed any more."""
        self._owed = []

    def clear(self) -> None:
        """Forget everything."""
        self._held, self._owed = {}, []

    def made_up_for(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Stream], bool]:
        """The denoiser's arguments with outputs that were owed, what was computed for it, and whether all are in."""
        owed, self._owed = self._owed, []
        if not owed:
            return tuple(args), dict(kwargs), [], True
        new: dict[int, Tensor] = {}
        for one in owed:
            output = one.call()
            parts = taken_apart(output)
            self.keep(one.stream, output)
            if parts is not None and parts.form == one.given.form:
                pairs = zip(one.given.leaves, parts.leaves, strict=True)
                new |= {id(old): leaf for old, leaf in pairs if isinstance(old, Tensor)}
        found: set[int] = set()

        def renewed(leaf: Any) -> Any:
            if id(leaf) in new:
                found.add(id(leaf))
            return new.get(id(leaf), leaf)

        whole = pytree.tree_map(renewed, (tuple(args), dict(kwargs)))
        return *whole, [one.stream for one in owed], bool(new) and found == set(new)
