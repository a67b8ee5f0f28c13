"""Writing files whole or not at all: a temporary name in the same folder, renamed when everything is in it.

Whoever looks at a path of ours sees the old file or the new one, never half of one; an exception on the way, Ctrl-C
included, leaves nothing behind. What the operating system says about paths is told in one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from videoaccel.common.home import kept_nowhere
from videoaccel.common.plain_json import read_json

PART_SUFFIX = ".part"
"""How temporary names end. One that is found later belongs to a process that was killed, or is still at work."""

FRAME_NAME = re.compile(r"\d{5,}\.png")
"""Names of the frames in a folder of frames."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: As `told` words it.
    """
    with told(path), atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8, line ends as they are in ``text``, whole or not at all.

    Raises:
        OSError: As `told` words it.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write in, which becomes ``path`` when the block ends well and vanishes when it does not."""
    path = Path(path)
    part = _part(path)
    file = open(part, "xb")  # noqa: SIM115 (closed below, before the rename)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave the new name with no contents
        file.close()
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):  # closing may try to write what a full disk has just refused
            file.close()
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write frames in, which becomes ``path`` when the block ends well and vanishes when it does not.

    A folder that is there already is replaced if it holds nothing but frames (see `check_frame_folder`).
    """
    path = Path(path)
    check_frame_folder(path)
    part = _part(path)
    part.mkdir()
    try:
        yield part
        check_frame_folder(path)  # somebody may have put something there while we were at work
        if not path.is_dir():
            part.rename(path)
            return
        old = _part(path)
        path.rename(old)
        try:
            part.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def check_frame_folder(path: Path) -> None:
    """Make sure that a folder of frames may be written at ``path``: nothing is there, or a folder of frames only.

    Raises:
        FileExistsError: Something else is there, which replacing the folder would delete.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"cannot write frames to {path}/: {path} is not a folder; choose another name")
    if path.is_dir():
        other = sorted(entry.name for entry in path.iterdir() if not FRAME_NAME.fullmatch(entry.name))
        if other:
            raise FileExistsError(
                f"cannot write frames to {path}/: it holds {other[0]!r}, not a frame; choose a new or empty folder"
            )


def make_clip_folders(clips: Path, sidecars: Path) -> None:
    """Make a folder for clips alone, as VBench's scripts want it, and one for what is written about them.

    Raises:
        FileExistsError: The first is there and holds something else.
        OSError: As `told` words it.
    """
    for folder in (clips, sidecars):
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
    if other := sorted(path.name for path in clips.iterdir() if path.suffix != ".mp4"):
        raise FileExistsError(
            f"{clips} holds {other[0]!r}, on which VBench's scripts fail; choose a new or empty folder"
        )


def check_creatable(path: str | Path) -> None:
    """Make sure that something can be made at ``path``: makes and removes a temporary file beside it.

    Trying is the only sure test; root, for one, passes every `os.access`.

    Raises:
        OSError: As `told` words it.
    """
    path = Path(path)
    part = _part(path)
    with told(path):
        with open(part, "xb"):
            pass
        part.unlink()
        with suppress(FileNotFoundError):
            path.lstat()  # the temporary name is short; this one may be too long


def check_file(path: str | Path) -> None:
    """Make sure that a file, and no folder, can be made at ``path``, before what goes into it is worked out.

    Raises:
        OSError: It cannot.
    """
    check_no_dir(path)
    check_creatable(path)


def check_results_place(
    folder: Path, names: Sequence[str], *, what: str, able: Callable[[Path], None] = check_creatable
) -> None:
    """Make sure that results can be written to a folder, which need not be there.

    Args:
        folder: The folder.
        names: Of the files.
        what: Is written, for the message: ``a report``.
        able: Makes sure that one of them can be, `check_creatable` or `check_folder`.

    Raises:
        OSError: They cannot: it is no folder, or as ``able`` says.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write {what} to {folder}: it is not a folder")
    able(folder / names[0] if folder.is_dir() else folder)
    for name in names:
        check_no_dir(folder / name)


def make_shelf(folder: Path, *, what: str) -> Path:
    """Make the folder of the user's cache for files that were given no place, and make sure that it takes them.

    Args:
        folder: The folder.
        what: Such a file holds, for the message: ``prior``.

    Raises:
        ValueError: There is no home folder.
        OSError: It cannot be written.
    """
    if kept_nowhere(folder):
        raise ValueError(f"there is no home folder whose cache could keep the {what}; give a file as `output`")
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_creatable(folder / what)
    return folder


def check_no_dir(path: str | Path) -> None:
    """Make sure that no folder has the name of a file that is to be written.

    Raises:
        OSError: One has, or the name is too long.
    """
    with told(path):
        if stat.S_ISDIR(_mode(Path(path))):
            raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def make_folder(path: str | Path) -> None:
    """Make the folder of ``path`` if it is all that is missing: where its own folder is not there, a slip is likelier.

    Raises:
        OSError: As `told` words it.
    """
    with told(path):
        Path(path).parent.mkdir(exist_ok=True)


def sidecar_beside(clip: str | Path, *, folder: Path | None = None) -> Path:
    """Where the sidecar of a clip goes: ``out.json`` beside ``out.mp4``, unless that is another clip's that is there.

    Then, of ``out.gif``, it is ``out.gif.json``. A folder of frames has its whole name in it.

    Args:
        clip: The clip; a folder's name ends in "/".
        folder: Where sidecars go; default beside the clip.
    """
    path = Path(clip)
    beside = folder or path.parent
    usual = beside / f"{path.name if str(clip).endswith('/') else path.stem}.json"
    owner = _clip_of(usual)
    return usual if owner in (None, path.name) or not (beside / str(owner)).exists() else beside / f"{path.name}.json"


def sidecar_of(clip: Path) -> Path:
    """The sidecar of a clip that is there, whether or not it has one, see `sidecar_beside`."""
    own = clip.with_name(f"{clip.name}.json")
    return own if clip.is_dir() or own.is_file() else clip.with_suffix(".json")


def _clip_of(sidecar: Path) -> str | None:
    """The name of the clip that a sidecar is of; None where there is none, or nothing that says it."""
    try:
        file = read_json(sidecar)["output"]["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Path(file).name if isinstance(file, str) else None


def check_folder(path: str | Path) -> None:
    """Make sure that `make_folder` would do: the folder of ``path``, or its own, is there; writes nothing.

    Raises:
        OSError: As `told` words it: also that it may not be written, as far as that can be told without trying, or that
            the name is too long.
    """
    folder = Path(path).parent
    with told(path):
        place = folder if folder.exists() else folder.absolute().parent
        os.listdir(place)
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with suppress(FileNotFoundError):
            Path(path).lstat()


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """Word the usual errors of writing ``path`` as one sentence for the user; others pass as they are.

    Raises:
        FileNotFoundError: The folder does not exist, or takes no files.
        PermissionError: The folder is read-only.
        OSError: The disk is full, and ``errno`` says so; or the name is too long.
    """
    try:
        yield
    except OSError as error:
        sentence = _sentence(error, Path(path))
        if sentence is None:
            raise
        kind = (
            PermissionError
            if error.errno in _READ_ONLY
            else FileNotFoundError
            if error.errno in _NOT_THERE
            else OSError
        )
        worded = kind(sentence)
        worded.errno = error.errno  # set afterwards, it stays out of the text
        raise worded from error


def _sentence(error: OSError, path: Path) -> str | None:
    folder = path.parent.absolute()
    if error.errno in _FULL:
        return f"cannot write {path}: the disk of {folder} is full; what was written so far has been removed"
    if error.errno in _READ_ONLY:
        return f"cannot write {path}: {folder} is read-only for this user; choose another folder"
    if error.errno == errno.ENOENT and folder.is_dir():  # /proc
        return f"cannot write {path}: no files can be made in {folder}; choose another folder"
    if error.errno == errno.ENOENT:
        return f"cannot write {path}: the folder {folder} does not exist; make it first"
    if error.errno == errno.ENOTDIR:
        return f"cannot write {path}: {folder} is not a folder"
    if error.errno == errno.ENAMETOOLONG:
        return f"cannot write {path}: the name is too long for this disk; choose a shorter one"
    return None


def sweep_parts(path: str | Path) -> None:
    """Take away what processes of this machine that were killed have left of ``path``, half written.

    Raises:
        OSError: It cannot be taken away.
    """
    path = Path(path)
    of_process = re.compile(rf"{re.escape(_hidden(path))}(\d+)-[0-9a-f]{{8}}{re.escape(PART_SUFFIX)}")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if (found := of_process.fullmatch(left.name)) and not _alive(int(found[1])):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _hidden(path: Path) -> str:
    # With the machine's name: of another machine's process nobody here knows whether it lives.
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
    return f".{path.name[:40]}.{machine}-"


def _part(path: Path) -> Path:
    # Hidden, in the same folder (a rename works only within a disk), and short enough for any name that itself fits.
    return path.with_name(f"{_hidden(path)}{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}")
