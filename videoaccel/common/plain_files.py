"""Opening files that others may have made: plain ones only, of a size, and nobody waits at a pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_FLAGS: int = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def plain_file(path: Path, *, name: str | None = None) -> Iterator[BinaryIO]:
    """A plain file, open for reading; pipes, devices and folders are refused before anything is read.

    Args:
        path: The file.
        name: What errors call it; its path unless given.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        PermissionError: This user may not read it.
        ValueError: It is no plain file, or the name is none.
    """
    name = name or str(path)
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name} is a folder, not a file") from None
    except PermissionError:
        if path.is_dir():  # as Windows says it
            raise IsADirectoryError(f"{name} is a folder, not a file") from None
        raise PermissionError(f"{name} may not be read by this user") from None
    except ValueError:
        raise ValueError(f"{name!r} is not the name of a file") from None
    except OSError as error:
        if path.is_socket():
            raise ValueError(f"{name} is no plain file (a socket)") from None
        raise type(error)(error.errno, error.strerror, name) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{name} is a folder, not a file")
        raise ValueError(f"{name} is no plain file (a pipe or a device)")
    with os.fdopen(handle, "rb") as file:
        yield file


def check_plain(path: Path, *, name: str | None = None) -> None:
    """Make sure that a path is a plain file, for libraries that open it themselves and would wait at a pipe.

    Raises:
        OSError: As `plain_file`.
        ValueError: Likewise.
    """
    with plain_file(path, name=name):
        pass


def read_plain(path: Path, *, largest: int, name: str | None = None) -> bytes:
    """What is in a plain file.

    Args:
        path: The file.
        largest: Bytes that it may have.
        name: What errors call it; its path unless given.

    Raises:
        OSError: As `plain_file`.
        ValueError: Likewise; or it is larger.
    """
    with plain_file(path, name=name) as file:
        data = file.read(largest + 1)  # it may grow meanwhile
        if len(data) > largest:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise ValueError(f"{name or path} has {size:,} bytes; at most {largest:,} are read")
    return data
