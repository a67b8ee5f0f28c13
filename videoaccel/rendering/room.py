"""A disk that fills up: whoever writes waits until there is room again."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from videoaccel.rendering.control import Control
from videoaccel.rendering.folder import RenderFolder

MIB = 1 << 20
_PROBE = 16 * MIB  # written to try, at most
_Result = TypeVar("_Result")


@dataclass
class Room:
    """The disk of a render, as one worker writes to it.

    Attributes:
        folder: Of the render.
        worker: Its name.
        pause: Seconds between looks at a full disk.
        control: Asked meanwhile whether to go on waiting.
        told: Called with ``paused`` or ``resumed`` and why, or for how long.
        clip: Bytes of the largest clip so far.
    """

    folder: RenderFolder
    worker: str
    pause: float
    control: Control
    told: Callable[[str, dict[str, Any]], None]
    clip: int = MIB

    def patiently(self, write: Callable[[], _Result]) -> _Result:
        """Call what writes, again when a full disk has room again.

        Raises:
            OSError: Another fault.
            StoppedError: The worker is to stop.
        """
        while True:
            try:
                return write()
            except OSError as error:
                if not is_full(error):
                    raise
                self.wait(str(error))

    def check(self) -> None:
        """Before hours of work: wait until there is room for a clip like those so far."""
        try:
            self._probe()
        except OSError as error:
            if not is_full(error):
                raise
            self.wait(f"there is no room for another clip in {self.folder.root}")

    def wait(self, why: str) -> None:
        """Wait until there is room; what was half-made is thrown away.

        Raises:
            StoppedError: The worker is to stop.
        """
        began = time.monotonic()
        self.folder.sweep(self.worker)
        self.told("paused", {"why": why})
        while True:
            time.sleep(self.pause)
            self.control.check()
            try:
                self._probe()
                break
            except OSError as error:
                if not is_full(error):
                    raise
        self.told("resumed", {"seconds": round(time.monotonic() - began, 1)})

    def _probe(self) -> None:
        """See whether there is as much room as a clip may need, and try to write some of it.

        Raises:
            OSError: There is no room.
        """
        need = 2 * self.clip
        if shutil.disk_usage(self.folder.root).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place = self.folder.staging.folder(self.worker)
        place.make()
        place.write("probe", bytes(min(need, _PROBE)))  # a quota is not seen otherwise
        place.unlink("probe")


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a full quota, is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
