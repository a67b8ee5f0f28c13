"""Warnings that name the line of whoever uses the package, however deep in it they arise."""

import sys
import warnings
from types import FrameType

PASSED_OVER = frozenset({"videoaccel", "diffusers", "torch", "contextlib", "functools", "pydantic"})
"""Packages between a user's line and a warning: ours, those that call us, and what wraps calls.

Python 3.12 has ``skip_file_prefixes`` for this.
"""


class Told(UserWarning):
    """What this package warns its users of, told apart from what libraries warn their developers of."""


def warn_user(text: str) -> None:
    """Warn as of the nearest line outside this package."""
    level, frame = 2, sys._getframe(1)
    while _inside(frame) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, Told, stacklevel=level)


def _inside(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in PASSED_OVER
