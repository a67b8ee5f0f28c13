"""Other forms of a network's modules, such as compiled ones: subclasses with the same weights, by change of class.

A form says in ``form_of`` which class it stands for. Names, weights and state stay, so a network can be saved and moved
as before, and be in its plain form for a while where something watches PyTorch's own operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn


def plain_form(module: nn.Module) -> type[nn.Module]:
    """The class that a module's stands for; its own if that is no form."""
    kind = type(module)
    return cast(type[nn.Module], getattr(kind, "form_of", kind))


@contextmanager
def in_plain_form(model: nn.Module) -> Iterator[None]:
    """A network without its forms: for counting operations, which kernels and compiled code hide."""
    changed = [(module, type(module)) for module in model.modules() if hasattr(type(module), "form_of")]
    for module, _ in changed:
        module.__class__ = plain_form(module)
    try:
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


def forms_of(model: nn.Module) -> dict[str, list[str]]:
    """Names of the forms in a network, for what depends on how fast it runs; empty where there are none."""
    names = sorted({type(module).__name__ for module in model.modules() if hasattr(type(module), "form_of")})
    return {"forms": names} if names else {}
