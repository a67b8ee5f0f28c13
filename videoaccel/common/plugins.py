"""Classes by name, one a file: whoever puts a file into the folder has added one."""

import difflib
import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def names_in(package: str) -> list[str]:
    """Names of the files in a package, in alphabetical order; those that begin with an underscore are its own."""
    folder = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))


def class_in(package: str, name: str, base: type[T], *, what: str) -> type[T]:
    """The class of this kind in the file of this name.

    Args:
        package: The folder, ``videoaccel.policies``; named, so that whoever asks need not know what is in it.
        name: Of the file.
        base: What the class derives from; the file defines one such class.
        what: What such a thing is called.

    Raises:
        ValueError: There is no such file.
    """
    if not isinstance(name, str):
        raise ValueError(f"a {what} is a name such as {names_in(package)[0]!r}, got {name!r}")
    if name not in names_in(package):
        near = difflib.get_close_matches(name, names_in(package), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names_in(package))}"
        raise ValueError(f"unknown {what} {name!r}; {hint}")
    module = importlib.import_module(f"{package}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )
    return found
