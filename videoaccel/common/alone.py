"""One process at a time: who comes second is told so in a sentence, in place of doing the same work again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from videoaccel.common.files import told

LOCK_SUFFIX = ".lock"
"""How the names of locks end. One that a killed process left behind holds nobody up."""


class BusyError(FileExistsError):
    """Another process is at work on a file."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only process that works on a file, as far as others ask, too; it need not be there yet.

    Args:
        path: The file. Beside it stands ``NAME.lock`` meanwhile.

    Raises:
        BusyError: Another is at it.
        OSError: Its folder cannot be written, or a link has the lock's name.
    """
    lock = FileLock(path.with_name(f"{path.name}{LOCK_SUFFIX}"))
    with told(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(
                f"another process is at work on {path}; wait until it ends, or choose another place"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is held: who comes next makes a new one
        lock.release()


def check_alone(path: Path) -> None:
    """Make sure that nobody is at work on a file, so that this is said before a model is loaded.

    Raises:
        BusyError: Somebody is.
        OSError: As `alone`.
    """
    with alone(path):
        pass
