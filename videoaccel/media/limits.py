"""How large a picture may be: a file of a few hundred bytes can claim billions of pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from videoaccel.common.devices import machine_memory
from videoaccel.common.wording import as_bytes
from videoaccel.media.encoders import Frames

Held = TypeVar("Held", Frames, Tensor)

MOST_PIXELS = 178_956_970
"""Pixels of a picture, or of a film's frame, unless told otherwise: Pillow's own limit, half a GiB of RGB."""

SETTING = "VIDEOACCEL_MOST_PIXELS"
"""Environment variable: who has larger pictures, and trusts them, says so."""


def most_pixels() -> int:
    """Pixels that a picture may have.

    Raises:
        ValueError: The environment says something that is no number above 0.
    """
    text = os.environ.get(SETTING, str(MOST_PIXELS)).strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise ValueError(f"the environment variable {SETTING} is {text!r}; a number of pixels above 0 is wanted")
    return int(text)


def check_pixels(height: int, width: int, *, name: str) -> None:
    """Make sure that pictures are not too large.

    Args:
        height: Pixels.
        width: Pixels.
        name: What it is that has so many, for the error.

    Raises:
        ValueError: They are.
    """
    if height * width > (most := most_pixels()):
        raise ValueError(f"{name} {height:,}x{width:,} pixels; at most {most:,} in all are read, {SETTING} allows more")


def holding(frames: Iterable[Held], path: Path, *, last: int | None = None) -> Iterator[Held]:
    """Frames on their way into memory, as long as they take no more than half of the machine's.

    Args:
        frames: Of a clip, one by one.
        path: Of its file.
        last: So many are kept, the last ones; None for all.

    Raises:
        ValueError: They would take more.
    """
    most, held = machine_memory() // 2, 0
    for count, frame in enumerate(frames):
        held += frame.nbytes if last is None or count < last else 0
        if held > most:
            raise ValueError(
                f"{path} does not fit into memory: its first {count} frames take {as_bytes(held)}, half of what this "
                f"machine has; cut it into shorter clips"
            )
        yield frame
