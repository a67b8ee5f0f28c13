import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from videoaccel.media.space import check_space


def test_clips_are_added_up_and_too_small_a_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips of 3 * 10 * 100 * 100 bytes: a fiftieth each as mp4, half as frames."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=12_000))
    films = [tmp_path / "new" / "a.mp4", tmp_path / "new" / "b.mp4"]
    check_space(films, frames=10, height=100, width=100)
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match=rf"2 clips will take about 293 KiB, and {tmp_path} has 11\.8 KiB left") as told:
        check_space([f"{tmp_path}/a/", f"{tmp_path}/b/"], frames=10, height=100, width=100)
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="3 clips"):
        check_space([*films, tmp_path / "c.mp4"], frames=10, height=100, width=100)
