"""What is forecast in a generation, network by network: what its blocks add, or its output."""

from collections.abc import Mapping
from typing import Any

from videoaccel.adapters.body import Body
from videoaccel.adapters.doors import Plain
from videoaccel.adapters.outputs import Output, finite, taken_apart
from videoaccel.adapters.streams import Stream


class Inner:
    """Of one generation. A network whose blocks turn out not to make up its output has that forecast from then on.

    Args:
        bodies: By network, who listens to its blocks.
        reasons: By network, why its output is forecast, of those of which that was not chosen.
        only: Whether nothing but bodies may be forecast.
    """

    def __init__(self, bodies: Mapping[str, Body], reasons: Mapping[str, str], *, only: bool) -> None:
        self._bodies, self._reasons, self._only = dict(bodies), dict(reasons), only
        self._checked: set[Stream] = set()

    def of(self, component: str) -> Body | None:
        """Who listens to a network's blocks; None if its output is forecast."""
        return self._bodies.get(component)

    @property
    def standing(self) -> str | None:
        """Why nothing may be forecast any more; None if something may."""
        return next(iter(self._reasons.values()), None) if self._only else None

    def computed(
        self, stream: Stream, body: Body, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Output | None]:
        """Compute a call: its output, and what its blocks added; None if that is of no use.

        If the blocks do not make up the output, :meth:`of` is None from now on.
        """
        output, found = body.record(plain, args, kwargs, check=stream not in self._checked)
        if taken_apart(output) is None:
            return output, None  # such a call is not forecast at all
        self._checked.add(stream)
        if isinstance(found, Output):
            return output, found
        self._reasons[stream.component] = f"of {stream.component} {found}"
        del self._bodies[stream.component]
        return output, None

    def served(
        self, body: Body, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any], residuals: Output
    ) -> tuple[Any, str | None]:
        """The output around forecast residuals, or why it has to be computed."""
        output = body.serve(plain, args, kwargs, residuals)
        parts = taken_apart(output)
        if parts is None:
            return None, "its blocks were called in another way"
        return (output, None) if finite(parts) else (None, "the forecast was not finite")

    def told(self) -> str:
        """For the report."""
        output = "output" + (f" ({'; '.join(self._reasons.values())})" if self._reasons else "")
        if not self._bodies:
            return output
        return f"body; {output}" if self._reasons else "body"
