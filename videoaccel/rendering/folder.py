"""The folder of a render: what is where in it, and how a finished clip gets there.

====================  ================================================================================================
``clips/NAME-ID/``    a finished clip, its sidecar and its poster; the folder appears whole, by one rename
``manifest/``         a JSON-lines file a worker: every change of a job's state
``index.html``        the gallery
``.render/``          what workers tell each other: leases, heartbeats, text states, half-made clips
====================  ================================================================================================
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from videoaccel.common.files import PART_SUFFIX, check_creatable, told
from videoaccel.rendering.plan import LETTERS

MARK = "videoaccel render, format 1\n"


class RenderFolder:
    """Paths of a render, and what is finished in it.

    Args:
        root: The folder; `prepare` makes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clips, self.manifest, self.work = root / "clips", root / "manifest", root / ".render"
        self.leases, self.workers, self.staging = self.work / "leases", self.work / "workers", self.work / "staging"
        self.text, self.plans, self.cancelled = self.work / "text", self.work / "plans", self.work / "cancelled"
        self.hashes = self.work / "hashes.json"
        self.gallery = root / "index.html"

    def check(self) -> None:
        """Make sure that a render may be written here: the folder is new, empty, or holds one.

        Raises:
            ValueError: It holds something else.
            OSError: It is no folder, or cannot be written.
        """
        if not self.root.exists():
            check_creatable(self.root)
            return
        if not self.root.is_dir():
            raise NotADirectoryError(f"cannot render into {self.root}: it is not a folder")
        # What another worker has just begun to make is no stranger's.
        names = (path.name for path in self.root.iterdir() if path != self.work and not path.name.endswith(PART_SUFFIX))
        other = min(names, default=None)
        if other is not None and not self.is_one():
            raise ValueError(
                f"{self.root} holds {other!r} but no render, so nothing is put there; choose a new or empty folder"
            )
        check_creatable(self.root / "clips")

    def is_one(self) -> bool:
        """Whether a render is here."""
        return (self.work / "format").is_file()

    def prepare(self) -> None:
        """Make all folders.

        Raises:
            ValueError: The folder holds something else, or a render of another version.
            OSError: It cannot be written.
        """
        self.check()
        with told(self.root):
            self.root.mkdir(exist_ok=True)
            self.work.mkdir(exist_ok=True)
            mark = self.work / "format"
            if not mark.exists():  # before all else: another worker may be looking
                mark.write_text(MARK)
            parts = (self.leases, self.workers, self.staging, self.text, self.plans, self.cancelled)
            for path in (self.clips, self.manifest, *parts):
                path.mkdir(exist_ok=True)
        if (found := mark.read_text()) not in (MARK, ""):
            raise ValueError(f"{self.root} is a render of another version ({found.strip()}); choose a new folder")

    def finished(self) -> dict[str, Path]:
        """By identity the folder of every clip that is there whole."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.clips) as entries:
            for entry in entries:
                name, _, identity = entry.name.rpartition("-")
                if name and len(identity) == LETTERS and _whole(entry.path, name):
                    found[identity] = self.clips / entry.name
        return found

    def has(self, name: str) -> bool:
        """Whether the clip of this folder name is there whole."""
        return _whole(str(self.clips / name), name.rpartition("-")[0])

    def stage(self, worker: str) -> Path:
        """A new folder for a worker to make clips in."""
        path = self.staging / worker / secrets.token_hex(4)
        with told(path):
            while not path.is_dir():
                with suppress(FileNotFoundError):  # another has just put the empty folder away
                    path.mkdir(parents=True)
        return path

    def commit(self, made: Path, name: str) -> bool:
        """Let a finished clip appear, whole.

        Args:
            made: The folder it was made in.
            name: What it is called in ``clips``.

        Returns:
            False if it was there already, made by another worker; what was made now is thrown away.

        Raises:
            OSError: It cannot be moved.
        """
        place = self.clips / name
        _sync(made)
        try:
            os.rename(made, place)
        except OSError:
            if not place.is_dir():
                raise
            if not self.has(name):  # half of a copy of this render, or somebody took files out
                broken = self.staging / f"broken-{secrets.token_hex(4)}"
                os.rename(place, broken)
                os.rename(made, place)
                shutil.rmtree(broken, ignore_errors=True)
                return True
            shutil.rmtree(made, ignore_errors=True)
            return False
        _sync(self.clips)
        return True

    def sweep(self, worker: str) -> None:
        """Throw away what a worker that is gone has left half-made."""
        shutil.rmtree(self.staging / worker, ignore_errors=True)

    def sweep_parts(self) -> None:
        """Throw away files that were never finished; only while nobody else is at work."""
        found = [path for folder in (self.leases, self.workers, self.text) for path in folder.glob(f".*{PART_SUFFIX}")]
        for path in [*found, *self.root.glob(f".{self.gallery.name}.*{PART_SUFFIX}")]:
            path.unlink(missing_ok=True)

    def left_behind(self) -> Iterator[str]:
        """Workers that have something half-made; what is empty goes."""
        for path in self.staging.iterdir():
            try:
                path.rmdir()
            except OSError:
                yield path.name


def _whole(folder: str, name: str) -> bool:
    # Made by one rename it is whole; only a copy that was broken off, or a person, can have made it less.
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return f"{name}.json" in names and any(
        other in names for other in (f"{name}.mp4", f"{name}.gif", f"{name}.png", name)
    )


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk: else a power cut could leave the name without the files."""
    with suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
