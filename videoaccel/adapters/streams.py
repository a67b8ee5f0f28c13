"""Which calls of a denoiser belong together: those of one network, name, form of arguments, and place among such."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

TIMES = frozenset({"timestep", "timesteps", "t", "r_timestep", "timestep_r", "step_index", "sigma", "vision_timesteps"})
"""Arguments whose value changes by evaluation and says nothing about the stream."""

LATENTS = ("hidden_states", "sample", "x")
"""Names of the latent among the arguments."""


class Stream(NamedTuple):
    """One stream of calls.

    Attributes:
        component: The pipeline's name of the network.
        context: The name that the pipeline gave the call; None if none.
        signature: Form of the arguments, see :func:`signature_of`.
        ordinal: Number among the calls of an evaluation that are alike so far.
    """

    component: str
    context: str | None
    signature: tuple[Any, ...]
    ordinal: int


class Streams:
    """Tells the streams of an evaluation's calls.

    Attributes:
        seen: Those of the evaluation so far.
    """

    def __init__(self) -> None:
        self.seen: set[Stream] = set()
        self._alike: Counter[tuple[Any, ...]] = Counter()
        self._names: dict[str, list[str]] = {}

    def entered(self, component: str, name: str | None) -> None:
        """The pipeline names the calls to come; None takes the last name back."""
        names = self._names.setdefault(component, [])
        if name is not None:
            names.append(name)
        elif names:
            names.pop()

    def begin(self) -> None:
        """An evaluation begins."""
        self.seen, self._alike = set(), Counter()

    def of(self, component: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Stream:
        """The stream of a call."""
        names = self._names.get(component)
        alike = (component, names[-1] if names else None, signature_of(args, kwargs))
        stream = Stream(*alike, self._alike[alike])
        self._alike[alike] += 1
        self.seen.add(stream)
        return stream


def signature_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Shapes and types of tensors, lengths of lists, and values of names, switches, counts and None.

    Values of tensors and of fractions are left out, and counts that may stand for the time.

    >>> signature_of([], {"mode": "write", "count": 3, "skip": None})
    ((), ('count', 'mode', 'skip'), (3, 'write', None))
    """
    names = tuple(sorted(kwargs))
    positional = tuple(_form(arg, valued=place != 1) for place, arg in enumerate(args))
    named = tuple(_form(kwargs[name], valued=name not in TIMES) for name in names)
    return positional, names, named


def latent_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The latent among the arguments: the first positional one, or that of the usual name; None if it is no tensor."""
    found = args[0] if args else next((kwargs[name] for name in LATENTS if name in kwargs), None)
    return found if isinstance(found, Tensor) else None


def size_of_latent(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Of the latent among the arguments all but the first axis, as ``4x64x64``; None if it is no tensor, nor a list.

    >>> import torch
    >>> size_of_latent([torch.zeros(2, 4, 8, 6)], {}), size_of_latent([], {"x": [torch.zeros(4, 1, 8, 6)]})
    ('4x8x6', '1x8x6')
    """
    found = args[0] if args else next((kwargs[name] for name in LATENTS if name in kwargs), None)
    if isinstance(found, list | tuple) and found:
        found = found[0]
    return "x".join(map(str, found.shape[1:])) if isinstance(found, Tensor) else None


def time_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What may be the timestep among the arguments: the second positional one, or that of the usual name."""
    return (
        args[1]
        if len(args) > 1
        else next((kwargs[name] for name in ("timestep", "timesteps", "t") if name in kwargs), None)
    )


def shape_of(signature: tuple[Any, ...]) -> tuple[int, ...]:
    """The latent's shape in a signature, as far as it can be told; empty if there is no tensor."""
    positional, names, named = signature
    usual = [form for name, form in zip(names, named, strict=True) if name in LATENTS]
    return _first_shape((positional, usual, named))


def _first_shape(parts: Iterable[Any]) -> tuple[int, ...]:
    for part in parts:
        if isinstance(part, _Shape):
            return part.shape
        if isinstance(part, tuple | list) and (found := _first_shape(part)):
            return found
    return ()


class _Shape(NamedTuple):
    shape: tuple[int, ...]
    dtype: Any


def _form(value: Any, *, valued: bool) -> Any:
    if isinstance(value, Tensor):
        return _Shape(tuple(value.shape), value.dtype)
    if isinstance(value, list | tuple):
        return len(value), tuple(_form(part, valued=valued) for part in value)
    if isinstance(value, Mapping):
        return tuple((name, _form(value[name], valued=valued)) for name in sorted(value, key=str))
    if value is None or (valued and isinstance(value, str | bool | int)):
        return value
    return type(value)
