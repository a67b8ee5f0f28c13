"""The one door to a render's folder, which others may write to as well: nothing outside of it is ever touched.

Names that are read there (workers in leases, identities in plans) are one component of a fixed alphabet, or they are
not ours. Folders are opened one below the other without following links, and every file is named within the handle of
its folder, so that neither a link nor ``..`` leads anywhere else, not even one that appears in between. The root is the
user's own word and may be a link. Only plain files are read, and none beyond the size that it can have.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from videoaccel.common.files import PART_SUFFIX, told
from videoaccel.rendering.handles import At, check_plain, is_folder, opened, remove_all, size_of

_WORKER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,79}")
_IDENTITY = re.compile(r"[0-9a-z]{1,40}")
LETTERS = 16
"""Of a job's identity."""


def is_worker(name: object) -> bool:
    """Whether this can be a worker's name: one component of a path, of letters that mean nothing to a file system.

    >>> is_worker("host-17-0a1b2c3d"), is_worker("../../home/x"), is_worker(".."), is_worker("/etc"), is_worker("")
    (True, False, False, False, False)
    """
    return isinstance(name, str) and _WORKER.fullmatch(name) is not None


def is_identity(name: object) -> bool:
    """Whether this can be the identity of a job, or of a unit of work.

    >>> is_identity("0123456789abcdef"), is_identity("../x"), is_identity("a.b"), is_identity(7)
    (True, False, False, False)
    """
    return isinstance(name, str) and _IDENTITY.fullmatch(name) is not None


@dataclass(frozen=True)
class Inside:
    """A folder of a render.

    Every name that is handed over is one component, else it is a ValueError; every folder on the way from the root is a
    real one, else it is a NotADirectoryError.

    Attributes:
        root: The render's folder, as the user named it.
        parts: The way from there.
    """

    root: Path
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it is, for messages, and for those who only look."""
        return self.root.joinpath(*self.parts)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        """Where a file of it is, likewise."""
        return self.path / name

    def folder(self, name: str) -> Inside:
        """A folder in it."""
        return Inside(self.root, (*self.parts, name))

    # Looking

    def names(self) -> list[str]:
        """All entries, in their order; none if it is not there.

        Raises:
            OSError: It is a link, or cannot be read.
        """
        with suppress(FileNotFoundError), self._opened() as at:
            return sorted(at.names())
        return []

    def exists(self, name: str) -> bool:
        """Whether there is such an entry, be it a link that leads nowhere."""
        return self._stat(name) is not None

    def is_folder(self, name: str) -> bool:
        """Whether there is such a folder, and no link to one."""
        found = self._stat(name)
        return found is not None and is_folder(found)

    def is_file(self, name: str) -> bool:
        """Whether there is such a plain file, and no link to one."""
        found = self._stat(name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def size(self) -> int:
        """Bytes of all files in it and below."""
        with self._opened() as at:
            return size_of(at)

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """A plain file, open for reading.

        Raises:
            OSError: There is none, or it is a link, a pipe, a device.
        """
        with self._opened() as at:
            handle = at.open(name, os.O_RDONLY)
        with os.fdopen(handle, "rb") as file:
            check_plain(handle, self / name)
            yield file

    def read(self, name: str, *, limit: int) -> bytes:
        """What is in a plain file.

        Raises:
            OSError: There is none, or it has more than ``limit`` bytes.
        """
        with self.reading(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"more than {limit:,} bytes", str(self / name))
        return data

    # Writing

    def make(self) -> None:
        """Make it, and what is missing on the way; the root is there.

        Raises:
            OSError: It cannot be made, or something else is there.
        """
        for count, name in enumerate(self.parts):
            with opened(self.root, self.parts[:count]) as at:
                with suppress(FileExistsError):
                    os.mkdir(at.of(name), dir_fd=at.handle)
                with at.below(name):
                    pass

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; what has that name is replaced, a link by the file.

        Raises:
            OSError: As `videoaccel.common.files.told` words it.
        """
        part = f".{name[:40]}.{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}"
        with told(self / name), self._opened() as at:
            handle = at.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(handle)  # else a power cut could leave the new name with no contents
                os.replace(at.of(part), at.of(name), src_dir_fd=at.handle, dst_dir_fd=at.handle)
            except BaseException:
                with suppress(OSError):
                    os.unlink(at.of(part), dir_fd=at.handle)
                raise

    def create(self, name: str, data: bytes) -> bool:
        """Create a file that must not exist; False if something has that name.

        Raises:
            OSError: It cannot be written; it is not left behind.
        """
        with self._opened() as at:
            try:
                handle = at.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                return False
            try:
                os.write(handle, data)
            except BaseException:
                os.unlink(at.of(name), dir_fd=at.handle)
                raise
            finally:
                os.close(handle)
        return True

    def overwrite(self, name: str, data: bytes) -> None:
        """Put data over a file's beginning, which takes no room on a full disk.

        Raises:
            OSError: It cannot be written, or is a link.
        """
        with self._writing(name, os.O_WRONLY) as handle:
            os.write(handle, data)

    def append(self, name: str, data: bytes) -> None:
        """Put data behind a file's end, whole or not at all.

        Raises:
            OSError: It cannot be written, or is a link.
        """
        with self._writing(name, os.O_WRONLY | os.O_APPEND) as handle:
            before = os.fstat(handle).st_size
            try:
                while data:
                    data = data[os.write(handle, data) :]
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise

    def sync(self) -> None:
        """Bring the entries to the disk: else a power cut could leave a name without its file."""
        with suppress(OSError), self._opened() as at:  # not every file system can
            if at.handle is not None:
                os.fsync(at.handle)

    # Moving and deleting

    def rename(self, name: str, new: str, *, into: Inside | None = None) -> None:
        """Move an entry, itself if it is a link.

        Raises:
            OSError: It is not there, or a folder with files has the new name.
        """
        with self._opened() as at, (into or self)._opened() as to:
            os.rename(at.of(name), to.of(new), src_dir_fd=at.handle, dst_dir_fd=to.handle)

    def link(self, name: str, new: str, *, into: Inside) -> None:
        """Give a file a second name.

        Raises:
            OSError: The file system knows no such names.
        """
        with self._opened() as at, into._opened() as to:
            os.link(at.of(name), to.of(new), src_dir_fd=at.handle, dst_dir_fd=to.handle, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        """Remove a file, or a link itself, if it is there.

        Raises:
            OSError: It is a folder, or this user may not.
        """
        with suppress(FileNotFoundError), self._opened() as at:
            os.unlink(at.of(name), dir_fd=at.handle)

    def rmdir(self, name: str) -> None:
        """Remove an empty folder.

        Raises:
            OSError: It is none, or not empty.
        """
        with self._opened() as at:
            os.rmdir(at.of(name), dir_fd=at.handle)

    def remove(self, name: str) -> None:
        """Remove an entry with all that is in it, links themselves and never what they lead to; what resists, stays."""
        with suppress(OSError, RecursionError), self._opened() as at:
            remove_all(at, name)

    @contextmanager
    def _writing(self, name: str, flags: int) -> Iterator[int]:
        with self._opened() as at:
            handle = at.open(name, flags | os.O_CREAT)
        try:
            check_plain(handle, self / name)
            if os.fstat(handle).st_nlink > 1:
                raise OSError(errno.EMLINK, "has a second name elsewhere, so it is not written", str(self / name))
            yield handle
        finally:
            os.close(handle)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            with self._opened() as at:
                return os.stat(at.of(name), dir_fd=at.handle, follow_symlinks=False)
        except OSError:
            return None

    def _opened(self) -> AbstractContextManager[At]:
        return opened(self.root, self.parts)
