"""What the subclasses of denoisers, schedulers and pipelines override: who listens is told, then the class acts."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import Any, Protocol

Plain = Callable[..., Any]
"""What an object does if nobody interferes."""


class Listener(Protocol):
    """Who is told."""

    @property
    def open(self) -> bool:
        """Whether a generation is under way, in this thread."""
        ...

    def called(self, network: Any, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A denoiser is called; returns its output."""
        ...

    def entered(self, network: Any, name: str | None) -> None:
        """The pipeline names the calls to come; None: no more."""
        ...

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler has been given its timesteps."""
        ...

    def stepped(self, scheduler: Any, plain: Plain, given: Mapping[str, Any]) -> Any:
        """A scheduler takes a step, ``plain()``, with these arguments by name; returns what it does."""
        ...

    def generates(self, pipe: Any, arguments: Mapping[str, Any]) -> Any:
        """A context around a generation of a pipeline, which gives arguments that are to be others."""
        ...


def network_members(base: type, listeners: list[Listener]) -> dict[str, Any]:
    """Of a denoiser."""

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(base.__call__, self)
        for listener in listeners:
            if listener.open:
                return listener.called(self, plain, args, kwargs)
        return plain(*args, **kwargs)

    @contextmanager
    def cache_context(self: Any, name: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        plain = getattr(base, "cache_context", None)
        # A compiled module has it from the one that it holds.
        context = self._orig_mod.cache_context if plain is None else functools.partial(plain, self)
        told = [listener for listener in listeners if listener.open]
        for listener in told:
            listener.entered(self, name)
        try:
            with context(name, *args, **kwargs) as value:
                yield value
        finally:
            for listener in told:
                listener.entered(self, None)

    return {"__call__": call, "cache_context": cache_context}


def plain_network_members(base: type, listeners: list[Listener]) -> dict[str, Any]:
    """Of a denoiser whose calls have no names."""
    return {"__call__": network_members(base, listeners)["__call__"]}


def inner_members(base: type, listeners: list[Any]) -> dict[str, Any]:
    """Of a block inside a denoiser, or of a part of one."""

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(base.__call__, self)
        for listener in listeners:
            if listener.open:
                return listener.inside(self, plain, args, kwargs)
        return plain(*args, **kwargs)

    return {"__call__": call}


def scheduler_members(base: Any, listeners: list[Listener]) -> dict[str, Any]:
    """Of a scheduler. Signatures stay: pipelines look for ``eta``, ``generator`` and ``sigmas`` there."""
    names = list(inspect.signature(base.step).parameters)[1:]

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(base.step, self, *args, **kwargs)
        for listener in reversed(listeners):  # the first is the outermost
            if listener.open:
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                plain = functools.partial(listener.stepped, self, plain, given)
        return plain()

    @functools.wraps(base.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = base.set_timesteps(self, *args, **kwargs)
        for listener in listeners:
            if listener.open:
                listener.scheduled(self)
        return found

    def again(self: Any, memo: dict[int, Any] | None) -> Any:
        """A copy that takes part: pipelines let copies step (LTX-2's sound)."""
        taking_part = any(listener.open for listener in listeners)
        made = object.__new__(type(self) if taking_part else base)
        if memo is not None:
            memo[id(self)] = made
        state = vars(self) if memo is None else copy.deepcopy(vars(self), memo)
        made.__dict__.update(state)
        return made

    return {
        "step": step,
        "set_timesteps": set_timesteps,
        "__deepcopy__": again,
        "__copy__": lambda self: again(self, None),
    }


def pipeline_members(base: type, listeners: list[Listener]) -> dict[str, Any]:
    """Of a pipeline."""
    signature = inspect.signature(base.__call__)
    names = list(signature.parameters)[1:]
    others_by_name = [n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return base.__call__(self, *args, **kwargs)  # raises, in its own words
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        for name in others_by_name:
            given.update(given.pop(name))
        with ExitStack() as around:
            for listener in listeners:
                others = dict(around.enter_context(listener.generates(self, given)))
                args = tuple(others.pop(name, value) for name, value in zip_longest(names[: len(args)], args))
                kwargs = {**kwargs, **others}
            return base.__call__(self, *args, **kwargs)

    return {"__call__": call}
