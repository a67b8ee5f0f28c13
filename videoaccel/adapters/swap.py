"""Turning a live object into an instance of a subclass of its class, and back.

The subclass has the name, the module and the documentation of the class, so that ``isinstance``, ``save_pretrained``
and messages are as before, and it equals the class (``from_pipe`` compares types); only ``type(x) is C`` is not so.
Objects made by the subclass, unpickled or copied are of the class itself. Several listeners may share one object: it
turns back when the last one leaves. No trace is left in it.
"""

import copyreg
import gc
from collections.abc import Callable
from typing import Any

MARK = "_videoaccel_listeners"
"""Where a subclass keeps who listens."""

Members = Callable[[type, list[Any]], dict[str, Any]]
"""From a class and the list of listeners, what its subclass overrides."""


def listeners_of(thing: Any) -> list[Any]:
    """Who listens to an object; empty if it is as it was made."""
    return getattr(type(thing), MARK, [])


def watch(thing: Any, listener: Any, members: Members) -> None:
    """Have a listener told of what an object does.

    Args:
        thing: The object.
        listener: Who is told; a second time changes nothing.
        members: What the subclass overrides, if nobody listens yet.
    """
    if getattr(type(thing), MARK, None) is None:
        _become(thing, _subclass(type(thing), members))
    listeners = listeners_of(thing)
    if listener not in listeners:
        listeners.append(listener)


def unwatch(thing: Any, listener: Any) -> None:
    """The inverse of :func:`watch`. Where another tool has made a further subclass of ours, ours stays, and is idle."""
    listeners = listeners_of(thing)
    if listener in listeners:
        listeners.remove(listener)
    if not listeners and MARK in vars(type(thing)):
        _become(thing, type(thing).__mro__[1])


def original(kind: type) -> type:
    """The class that a subclass of ours stands for; itself of any other."""
    return kind.__mro__[1] if MARK in vars(kind) else kind


class _Alike(type):
    """Of classes that equal the one that they stand for."""

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, type) and original(cls) is original(other)

    def __hash__(cls) -> int:
        return type.__hash__(original(cls))


def _become(thing: Any, kind: type) -> None:
    # Pipelines and modules have a __setattr__ that registers things.
    object.__setattr__(thing, "__class__", kind)
    _seen_by_collector(thing)


def _seen_by_collector(thing: Any) -> None:
    """Have the garbage collector look into an object's attributes again, which it may not in Python 3.13 before 3.13.4.

    There a ``__dict__`` that was asked for before anything collectable was in it is left out for good (python/cpython
    issue 133543). As long as attributes lie in the object itself that does no harm; another class moves them out.
    """
    attributes = getattr(thing, "__dict__", None)
    if isinstance(attributes, dict) and not gc.is_tracked(attributes):
        for name, value in attributes.items():
            attributes[name] = value  # what is collectable has the dictionary looked into


def _subclass(base: type, members: Members) -> type:
    listeners: list[Any] = []

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        return base(*args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        """As an instance of the class: what is unpickled, or copied, listens to nobody."""
        found: Any = base.__reduce_ex__(self, protocol)  # type: ignore[call-arg]
        if found[0] is copyreg.__newobj__:  # type: ignore[attr-defined]  # pickle would insist on the present class
            return (copyreg._reconstructor, (base, object, None), *found[2:])  # type: ignore[attr-defined]
        arguments = tuple(original(one) if isinstance(one, type) else one for one in found[1])
        return (original(found[0]) if isinstance(found[0], type) else found[0], arguments, *found[2:])

    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__new__": make,
        "__reduce_ex__": reduce,
        MARK: listeners,
        **members(base, listeners),
    }
    kind = type(base)
    alike = type(kind.__name__, (_Alike, kind), {}) if kind is not type else _Alike
    return alike(base.__name__, (base,), namespace)
