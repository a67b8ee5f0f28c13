"""Disks that fill up, and Ctrl-C."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from videoaccel.common import files


class Stop(BaseException):
    """Like KeyboardInterrupt, which pytest would take for its own."""


class SmallDisk(io.FileIO):
    """A file on a disk that is full after some bytes."""

    room = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def small_disk(monkeypatch: pytest.MonkeyPatch) -> type[SmallDisk]:
    """Let `videoaccel.common.files` write to a disk with ``room`` bytes, none at first."""

    def small_open(path: Path, mode: str) -> Any:
        return io.BufferedWriter(SmallDisk(path, mode.replace("b", "")), buffer_size=64)

    monkeypatch.setattr(files, "open", small_open, raising=False)
    monkeypatch.setattr(SmallDisk, "room", 0)
    return SmallDisk
