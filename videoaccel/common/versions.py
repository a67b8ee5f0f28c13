"""Versions of the libraries underneath: what was seen to work, and the names that changed between them.

What runs with which version is found by ``benchmarks/versions.py`` and stands in ``docs/versions.md``.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from videoaccel.common.user_warning import warn_user

TESTED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"torch": ("2.6", "2.13"), "diffusers": ("0.39", "0.42"), "transformers": ("4.48", "5.24")}
)
"""Package -> the oldest and the newest version that everything, or all but what docs/versions.md names, works with."""

_HAS_DTYPE = MappingProxyType({"diffusers": "0.40", "transformers": "4.56"})
"""Since when what a pipeline is loaded in is called ``dtype``; ``torch_dtype`` before."""


class UnfitVersionError(ImportError):
    """A library is missing or too old."""


@cache
def check_versions() -> None:
    """Make sure, once in a process, that the libraries are not too old; warn of those newer than tested.

    Raises:
        UnfitVersionError: One is not installed, or too old; says which would do and how it is had.
    """
    for package, (oldest, newest) in TESTED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise UnfitVersionError(f"{package} is not installed; pip install {package} brings it") from None
        if _number(found) < _number(oldest):
            raise UnfitVersionError(
                f"{package} {found} is too old, {oldest} is the oldest that works here; "
                f"pip install -U '{package}>={oldest}' brings it"
            )
        if _number(found) > _number(newest):
            warn_user(f"{package} {found} is newer than what was tested (up to {newest}); see docs/versions.md")


def at_least(package: str, wanted: str) -> bool:
    """Whether a package is of this version or newer, by its first two numbers."""
    return _number(version(package)) >= _number(wanted)


def dtype_argument(package: str, dtype: Any) -> dict[str, Any]:
    """The keyword with which ``from_pretrained`` of diffusers or transformers takes a type."""
    return {"dtype" if at_least(package, _HAS_DTYPE[package]) else "torch_dtype": dtype}


def device_errors() -> tuple[type[Exception], ...]:
    """What torch raises where a device has no memory left or fails; one class before torch 2.8."""
    import torch

    later = getattr(torch, "AcceleratorError", None)
    return (torch.OutOfMemoryError,) if later is None else (torch.OutOfMemoryError, later)


def _number(text: str) -> tuple[int, int]:
    """The first two numbers of a version.

    >>> _number("2.13.0+cpu"), _number("0.43.0.dev0"), _number("5")
    ((2, 13), (0, 43), (5, 0))
    """
    found = re.match(r"(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
