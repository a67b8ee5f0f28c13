"""The folder of a render: what is where in it, and how a finished clip gets there.

====================  ================================================================================================
``clips/NAME-ID/``    a finished clip, its sidecar and its poster; the folder appears whole, by one rename
``manifest/``         a JSON-lines file a worker: every change of a job's state
``index.html``        the gallery
``.render/``          what workers tell each other: leases, heartbeats, text states, half-made clips
====================  ================================================================================================
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from videoaccel.common.files import PART_SUFFIX, check_creatable, told
from videoaccel.rendering.inside import LETTERS, Inside, is_identity, is_worker
from videoaccel.rendering.said import MIB, mapping, read_said

MARK = "videoaccel render, format 1\n"
GALLERY = "index.html"
"""Name of the gallery's page."""

_SIDECAR = 64 * MIB  # at most; an explanation of every step and module is a few


class RenderFolder:
    """Paths of a render, and what is finished in it.

    Args:
        root: The folder; `prepare` makes it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Inside(root)
        self.clips, self.manifest, self.work = (self.top.folder(name) for name in ("clips", "manifest", ".render"))
        self.leases, self.workers, self.staging = (self.work.folder(name) for name in ("leases", "workers", "staging"))
        self.text, self.plans, self.cancelled = (self.work.folder(name) for name in ("text", "plans", "cancelled"))
        self.gallery = root / GALLERY

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
        ours = self.work.parts[-1]
        names = (path.name for path in self.root.iterdir() if path.name != ours and path.suffix != PART_SUFFIX)
        other = min(names, default=None)
        if other is not None and not self.is_one():
            raise ValueError(
                f"{self.root} holds {other!r} but no render, so nothing is put there; choose a new or empty folder"
            )
        check_creatable(self.root / "clips")

    def is_one(self) -> bool:
        """Whether a render is here."""
        return self.work.is_file("format")

    def prepare(self) -> None:
        """Make all folders.

        Raises:
            ValueError: The folder holds something else, or a render of another version.
            OSError: It cannot be written.
        """
        self.check()
        with told(self.root):
            self.root.mkdir(exist_ok=True)
            self.work.make()
            self.work.create("format", MARK.encode())  # before all else: another worker may be looking
            parts = (self.leases, self.workers, self.staging, self.text, self.plans, self.cancelled)
            for place in (self.clips, self.manifest, *parts):
                place.make()
        if (found := self.work.read("format", limit=MIB).decode(errors="replace")) not in (MARK, ""):
            raise ValueError(f"{self.root} is a render of another version ({found.strip()!r:.80}); choose a new folder")

    def finished(self) -> dict[str, Path]:
        """By identity the folder of every clip that is there whole."""
        found = {}
        for entry in self.clips.names():
            name, _, identity = entry.rpartition("-")
            if name and len(identity) == LETTERS and is_identity(identity) and self.has(entry):
                found[identity] = self.clips / entry
        return found

    def has(self, name: str) -> bool:
        """Whether the clip of this folder name is there whole."""
        # Made by one rename it is whole; only a copy that was broken off, or a person, can have made it less.
        try:
            names = self.clips.folder(name).names()
        except OSError:
            return False
        short = name.rpartition("-")[0]
        return f"{short}.json" in names and any(other in names for other in clip_files(short))

    def record(self, name: str) -> Mapping[str, Any]:
        """The sidecar of the clip of this folder name; empty if it cannot be read."""
        return mapping(read_said(self.clips.folder(name), f"{name.rpartition('-')[0]}.json", limit=_SIDECAR))

    def stage(self, worker: str) -> Inside:
        """A new folder for a worker to make clips in."""
        own, token = self.staging.folder(worker), secrets.token_hex(4)
        place = own.folder(token)
        with told(place.path):
            while not own.is_folder(token):
                with suppress(FileNotFoundError):  # another has just put the empty folder away
                    place.make()
        return place

    def commit(self, made: Inside, name: str) -> bool:
        """Let a finished clip appear, whole.

        Args:
            made: The folder it was made in.
            name: What it is called in ``clips``.

        Returns:
            False if it was there already, made by another worker; what was made now is thrown away.

        Raises:
            OSError: It cannot be moved.
        """
        made.sync()
        worker, token = Inside(made.root, made.parts[:-1]), made.parts[-1]
        try:
            worker.rename(token, name, into=self.clips)
        except OSError:
            if not self.clips.exists(name):
                raise
            if not self.has(name):  # half of a copy of this render, or somebody took files out, or put a link there
                broken = f"broken-{secrets.token_hex(4)}"
                self.clips.rename(name, broken, into=self.staging)
                worker.rename(token, name, into=self.clips)
                self.staging.remove(broken)
                return True
            worker.remove(token)
            return False
        self.clips.sync()
        return True

    def sweep(self, worker: str) -> None:
        """Throw away what a worker that is gone has left half-made."""
        if is_worker(worker):
            self.staging.remove(worker)

    def forget_texts(self) -> None:
        """Throw away text states, which are large."""
        for name in self.text.names():
            if name.endswith(".safetensors") or name.endswith(PART_SUFFIX):
                with suppress(OSError):
                    self.text.unlink(name)

    def sweep_parts(self) -> None:
        """Throw away files that were never finished; only while nobody else is at work."""
        for place in (self.leases, self.workers, self.text, self.top):
            start = f".{GALLERY}." if place == self.top else "."
            for name in place.names():
                if name.startswith(start) and name.endswith(PART_SUFFIX):
                    with suppress(OSError):  # a folder of that name is none of ours
                        place.unlink(name)

    def left_behind(self) -> Iterator[str]:
        """Workers that have something half-made; what is empty goes. What is not a worker's stays where it is."""
        for name in self.staging.names():
            if is_worker(name):
                try:
                    self.staging.rmdir(name)
                except OSError:
                    yield name


def clip_files(name: str) -> tuple[str, ...]:
    """What the file of a clip of this name may be called; the last is a folder of frames."""
    return f"{name}.mp4", f"{name}.gif", f"{name}.png", f"{name}.wav", name
