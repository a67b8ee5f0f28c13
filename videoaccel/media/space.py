"""Whether clips will find room on the disk, roughly, before they are made."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from videoaccel.common.wording import as_bytes, counted
from videoaccel.settings.early import output_kind

SHARES: Mapping[str, float] = MappingProxyType({".mp4": 1 / 50, ".gif": 1 / 4, ".png": 1 / 2, "/": 1 / 2})
"""What a form usually takes of three bytes a pixel; noise takes more, plain areas much less."""


def check_space(clips: Sequence[str | Path], *, frames: int, height: int, width: int) -> None:
    """Make sure that a disk has about as much room as its clips usually take; writes nothing.

    Args:
        clips: Where they go; those of one disk are added up.
        frames: Of each.
        height: Pixels.
        width: Pixels.

    Raises:
        OSError: There is too little; says how much there is and how much it takes.
    """
    wanted: dict[int, tuple[Path, int, float]] = {}
    for clip in clips:
        folder = next(path for path in Path(clip).absolute().parents if path.is_dir())
        disk = folder.stat().st_dev
        _, count, size = wanted.get(disk, (folder, 0, 0.0))
        size += 3 * frames * height * width * SHARES[output_kind(clip)]
        wanted[disk] = (folder, count + 1, size)
    for folder, count, size in wanted.values():
        if (free := shutil.disk_usage(folder).free) < size:
            error = OSError(
                f"{counted(count, 'clip')} will take about {as_bytes(round(size))}, and {folder} has "
                f"{as_bytes(free)} left; make room, or choose another folder"
            )
            error.errno = errno.ENOSPC
            raise error
