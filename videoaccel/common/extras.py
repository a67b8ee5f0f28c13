"""Packages that only some tasks need, and which extra of this one brings them."""

import importlib.util


def need(what: str, package: str, extra: str) -> None:
    """Make sure, before any work, that a package is there; it is not imported.

    Raises:
        ValueError: It is not installed; says what needs it and how it is had.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{what} needs {package}; pip install 'videoaccel[{extra}]' brings it")
