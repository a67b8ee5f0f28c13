"""Folders opened one below the other without following links, and what is done to files within such a handle."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
PLAIN: int = NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # a FIFO lets nobody wait
FOLDER: int = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
BY_HANDLE = NO_FOLLOW != 0 and os.open in os.supports_dir_fd
"""Whether this system names files within the handle of a folder; Windows does not, there paths are checked first."""


@dataclass(frozen=True)
class At:
    """A folder that was opened: its handle, or its checked path where there are no handles of folders."""

    handle: int | None
    path: Path

    def of(self, name: str) -> str:
        """What `os` calls a file in it, together with ``dir_fd=handle``."""
        if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
            raise ValueError(f"{name!r} is not the name of a file in {self.path}")
        return name if self.handle is not None else str(self.path / name)

    def open(self, name: str, flags: int, mode: int = 0o644) -> int:
        """A handle of a file in it, which is no link.

        Raises:
            OSError: It cannot be had, or is a link.
        """
        path = self.of(name)
        if self.handle is None and os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return os.open(path, flags | PLAIN, mode, dir_fd=self.handle)

    def names(self) -> list[str]:
        """All entries."""
        return os.listdir(self.path if self.handle is None else self.handle)

    @contextmanager
    def below(self, name: str) -> Iterator[At]:
        """A folder in it, which is no link."""
        path = self.path / name
        try:
            handle = None if self.handle is None else os.open(self.of(name), FOLDER | NO_FOLLOW, dir_fd=self.handle)
            if handle is None and not is_folder(os.lstat(self.of(name))):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise
            raise NotADirectoryError(
                f"{path} is a link, or no folder: a render writes and deletes only in folders of its own; "
                f"take it away, or choose a new folder"
            ) from None
        try:
            yield At(handle, path)
        finally:
            if handle is not None:
                os.close(handle)


@contextmanager
def opened(root: Path, parts: Sequence[str]) -> Iterator[At]:
    """A folder below a root; the root may be a link, what is below may not.

    Raises:
        OSError: It is not there, or something on the way is no folder.
    """
    with ExitStack() as stack:
        handle = os.open(root, FOLDER) if BY_HANDLE else None
        if handle is not None:
            stack.callback(os.close, handle)
        at = At(handle, root)
        for part in parts:
            at = stack.enter_context(at.below(part))
        yield at


def is_folder(found: os.stat_result) -> bool:
    """Whether this is a folder, and no link."""
    return stat.S_ISDIR(found.st_mode) and not getattr(found, "st_reparse_tag", 0)  # Windows knows links of its own


def check_plain(handle: int, path: Path) -> None:
    """Make sure that a plain file was opened.

    Raises:
        OSError: It is a pipe, a device, a folder.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "is no plain file", str(path))


def size_of(at: At) -> int:
    """Bytes of all files in a folder and below."""
    total = 0
    for name in at.names():
        found = os.stat(at.of(name), dir_fd=at.handle, follow_symlinks=False)
        if is_folder(found):
            with at.below(name) as inner:
                total += size_of(inner)
        else:
            total += found.st_size
    return total


def remove_all(at: At, name: str) -> None:
    """Remove an entry and what is in it; links go themselves, what they lead to stays.

    Raises:
        OSError: Something resists.
    """
    try:
        found = os.stat(at.of(name), dir_fd=at.handle, follow_symlinks=False)
        if not is_folder(found):
            os.unlink(at.of(name), dir_fd=at.handle)
            return
        with at.below(name) as inner:
            for one in inner.names():
                with suppress(OSError):
                    remove_all(inner, one)
        os.rmdir(at.of(name), dir_fd=at.handle)
    except FileNotFoundError:
        pass
