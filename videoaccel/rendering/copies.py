"""Clips of a render's folder, lent to decoders, which take paths: a copy where nobody else can exchange it.

In the folder no link is followed and only plain files are read, up to a size; what is not as its sidecar says is
refused before anything decodes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from videoaccel.common.wording import as_bytes
from videoaccel.jobs.sidecar import file_hash
from videoaccel.rendering.folder import RenderFolder, clip_files
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.said import mapping

MOST_BYTES = 2 << 30
"""Of a clip that is measured: an hour of 480p as we write it."""

_BLOCK = 1 << 20


def stamp(folder: RenderFolder, place: str, record: Mapping[str, Any]) -> list[Any]:
    """What a clip is known again by, without reading it: what its sidecar says of it, sizes and times of its files.

    Args:
        folder: Of the render.
        place: Name of the clip's folder.
        record: Its sidecar.

    Raises:
        OSError: It is not there, or no plain file.
    """
    inside, name = _found(folder, place, record)
    return [place, mapping(record.get("output")).get("sha256"), *_stamps(inside, name)]


def _stamps(inside: Inside, name: str) -> list[list[int]]:
    if inside.is_folder(name):
        frames = inside.folder(name)
        return [one for file in sorted(frames.names()) for one in _stamps(frames, file)]
    with inside.reading(name) as file:
        found = os.fstat(file.fileno())
    return [[found.st_size, found.st_mtime_ns]]


def _found(folder: RenderFolder, place: str, record: Mapping[str, Any]) -> tuple[Inside, str]:
    short, file = place.rpartition("-")[0], mapping(record.get("output")).get("file")
    for name in clip_files(short):
        if file in (name, f"{name}/"):
            return folder.clips.folder(place), name
    raise FileNotFoundError(f"{place} has no clip of the name that its sidecar says")


@contextmanager
def lent(folder: RenderFolder, place: str, record: Mapping[str, Any]) -> Iterator[Path]:
    """A copy of a clip, a file or a folder of frames, as long as the block lasts.

    Args:
        folder: Of the render.
        place: Name of the clip's folder.
        record: Its sidecar.

    Raises:
        OSError: It is not there, or no plain file.
        ValueError: It has more than `MOST_BYTES`, or is not what its sidecar tells of.
    """
    inside, name = _found(folder, place, record)
    with tempfile.TemporaryDirectory(prefix="videoaccel-") as own:
        copy, left = Path(own) / name, MOST_BYTES
        if inside.is_folder(name):
            copy.mkdir()
            frames = inside.folder(name)
            for file in frames.names():
                left -= _copied(frames, file, copy / file, left, place)
        else:
            _copied(inside, name, copy, left, place)
        if file_hash(copy) != mapping(record.get("output")).get("sha256"):
            raise ValueError(f"{place} is not the clip that its sidecar tells of")
        yield copy


def _copied(inside: Inside, name: str, to: Path, most: int, place: str) -> int:
    with inside.reading(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{place} has more than {as_bytes(MOST_BYTES)}")
        _copy(file, to, size)
    return size


def _copy(file: BinaryIO, to: Path, size: int) -> None:
    with to.open("xb") as out:
        while size > 0 and (block := file.read(min(size, _BLOCK))):  # what grows meanwhile is cut
            out.write(block)
            size -= len(block)
