"""What can be said of clips and their references before all of them are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from videoaccel.common.reading import parse_colour
from videoaccel.common.wording import counted
from videoaccel.evaluation.clips import ClipFile, Reading
from videoaccel.media.reader import open_clip

LOOKED_AT = 20
"""Pairs whose sizes are compared, the first of all: where sizes differ, they usually differ in all."""


def lacking_references(clips: Sequence[ClipFile], folder: Path, reading: Reading) -> Iterator[str]:
    """What will be missing, in sentences.

    Args:
        clips: With their references.
        folder: Of these.
        reading: How clips are read.

    Raises:
        ValueError: No clip has a reference.
    """
    without = [clip for clip in clips if clip.reference is None]
    if len(without) == len(clips):
        raise ValueError(f"{folder} holds no clip of a name that is wanted, such as {clips[0].name}")
    if without:
        yield f"no reference in {folder} for {len(without)} of {counted(len(clips), 'clip')}, first {without[0].name}"
    pairs = [clip for clip in clips if clip.reference is not None][:LOOKED_AT]
    other = [(clip, sizes) for clip in pairs if (sizes := _other_sizes(clip, reading)) is not None]
    if other:
        clip, (own, wanted) = other[0]
        yield (
            f"of another size than the reference, and not to be compared: {len(other)} of the first "
            f"{counted(len(pairs), 'clip')}, such as {clip.name}, {own[0]}x{own[1]} beside {wanted[0]}x{wanted[1]}"
        )


def _other_sizes(clip: ClipFile, reading: Reading) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Height and width of a clip and its reference, if they differ; what cannot be read is said when it is measured."""
    assert clip.reference is not None
    try:
        own, wanted = (_size(path, reading) for path in (clip.path, clip.reference))
    except (OSError, ValueError, StopIteration):
        return None
    return None if own == wanted else (own, wanted)


def _size(path: Path, reading: Reading) -> tuple[int, ...]:
    with open_clip(path, ground=parse_colour(reading.ground)) as film:
        return tuple(next(iter(film.frames)).shape[:2])
