"""Tensors inside nests of tuples and dataclasses, and places of their own for them, which stay where they are.

A CUDA graph reads the addresses that it was recorded with; so what a call is given is copied to places first.
"""

import weakref
from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
"""What a nest may hold besides tensors; part of its signature by value."""


def tensors_of(nest: Any) -> Iterator[Tensor]:
    """All tensors of a nest, in order."""
    if isinstance(nest, Tensor):
        yield nest
    else:
        for _, part in _parts(nest):
            yield from tensors_of(part)


def signature(nest: Any) -> Hashable:
    """What a recording depends on: how the nest is built, and shape, strides, type and device of its tensors.

    Raises:
        TypeError: It holds something else than tensors and plain values.
    """
    if isinstance(nest, Tensor):
        return tuple(nest.shape), nest.stride(), nest.dtype, nest.device
    if isinstance(nest, PLAIN):
        return nest
    return type(nest), *((name, signature(part)) for name, part in _parts(nest))


def with_tensors(nest: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nest of other tensors."""
    if isinstance(nest, Tensor):
        return next(tensors)
    if isinstance(nest, PLAIN):
        return nest
    made = {name: with_tensors(part, tensors) for name, part in _parts(nest)}
    if is_dataclass(nest) or hasattr(nest, "_fields"):
        return type(nest)(**made)
    return type(nest)(made.values())


def place_for(x: Tensor) -> Tensor:
    """Memory for a tensor like ``x``, laid out as it is; nothing is copied.

    Kernels are chosen by layout, so that another one could give other bits. A dimension that ``x`` repeats (stride 0)
    is repeated here, too.
    """
    once = x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.stride())]
    return torch.empty_strided(once.shape, once.stride(), dtype=x.dtype, device=x.device).expand(x.shape)


def fill(places: list[Tensor], tensors: list[Tensor]) -> None:
    """Copy tensors to their places."""
    pairs = [(_once(place), _once(x)) for place, x in zip(places, tensors, strict=True)]
    if pairs:
        torch._foreach_copy_([place for place, _ in pairs], [x for _, x in pairs])


def _once(x: Tensor) -> Tensor:
    """Without repetitions, which nothing can be copied to."""
    if all(x.stride()):
        return x
    return x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.stride())]


class Places:
    """Places for a call's arguments.

    Args:
        moving: What is another in every call.
        fixed: What stays the same for a while; it is copied when it comes as other tensors.

    Attributes:
        moving: The same nest of places.
        fixed: Likewise.
    """

    def __init__(self, moving: Any, fixed: Any) -> None:
        self._moving = [place_for(x) for x in tensors_of(moving)]
        self._fixed = [place_for(x) for x in tensors_of(fixed)]
        self._last: list[weakref.ref[Tensor]] = []
        self.moving = with_tensors(moving, iter(self._moving))
        self.fixed = with_tensors(fixed, iter(self._fixed))
        self.take(moving, fixed)

    @property
    def nbytes(self) -> int:
        """Memory of all places."""
        return sum(_once(place).nbytes for place in (*self._moving, *self._fixed))

    def take(self, moving: Any, fixed: Any) -> None:
        """Copy a call's arguments to their places."""
        fill(self._moving, list(tensors_of(moving)))
        given = list(tensors_of(fixed))
        if len(self._last) != len(given) or any(ref() is not x for ref, x in zip(self._last, given, strict=True)):
            fill(self._fixed, given)
            self._last = [weakref.ref(x) for x in given]


def _parts(nest: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what a nest holds.

    Raises:
        TypeError: It is none.
    """
    if is_dataclass(nest) and not isinstance(nest, type):
        yield from ((field.name, getattr(nest, field.name)) for field in fields(nest))
    elif hasattr(nest, "_fields"):
        yield from zip(nest._fields, nest, strict=True)
    elif isinstance(nest, tuple | list):
        yield from ((str(number), part) for number, part in enumerate(nest))
    elif not isinstance(nest, PLAIN):
        raise TypeError(f"a {type(nest).__name__} among a call's arguments")
