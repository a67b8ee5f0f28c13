"""The user's home: where it is, if there is one, what `~/` means, and where caches are."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from videoaccel.common.user_warning import warn_user

_NOWHERE = Path(os.devnull) / "no-home"


def home_folder() -> Path | None:
    """The user's home; None where HOME is not set and the user has no account, as in containers with a foreign id."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def expand(path: str | Path) -> Path:
    """A path with ``~/`` replaced by the home. Any other name that begins with ``~`` is a file's.

    Raises:
        ValueError: It is wanted, and there is no home.

    >>> expand("~clip.mp4"), expand("clips/~/a.mp4")
    (PosixPath('~clip.mp4'), PosixPath('clips/~/a.mp4'))
    """
    return Path(expand_text(str(path)))


def expand_text(path: str) -> str:
    """`expand` for a text, whose end, such as "/", stays.

    Raises:
        ValueError: As `expand`.
    """
    if path != "~" and not path.startswith("~/"):
        return path
    home = home_folder()
    if home is None:
        raise ValueError(f"{path}: this user has no home folder (HOME is not set); give the whole path")
    return f"{home}{path[1:]}"


def cache_base() -> Path:
    """The folder of the user's caches: ``XDG_CACHE_HOME``, else ``~/.cache``.

    Without a home it is a place at which nothing is and nothing can be made (see `kept_nowhere`), which is told once.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base)
    home = home_folder()
    if home is None:
        _tell()
        return _NOWHERE
    return home / ".cache"


def cache_folder(kind: str) -> Path:
    """A folder of ours in the user's caches."""
    return cache_base() / "videoaccel" / kind


def cached_at(path: str) -> Path:
    """`expand` for a place where others cache; without a home, one at which nothing is."""
    if path.startswith("~/") and home_folder() is None:
        _tell()
        return _NOWHERE / path[2:]
    return expand(path)


def kept_nowhere(folder: Path) -> bool:
    """Whether nothing can be kept in a folder of the caches, since there is no home."""
    return folder.is_relative_to(_NOWHERE)


def place(folder: Path) -> str:
    """A folder of the caches for people to read."""
    return "no folder, since this user has no home" if kept_nowhere(folder) else str(folder)


@cache
def _tell() -> None:
    warn_user(
        "this user has no home folder (HOME is not set), so nothing is cached; XDG_CACHE_HOME names a folder for it"
    )
