"""What is said, and what is left behind, when a clip cannot be written."""

import builtins
import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clips import ENDINGS, contents, render, write
from tests.disks import Stop, small_disk
from videoaccel.common import files
from videoaccel.media.reader import read_video
from videoaccel.media.writer import Writer, check_writable


@pytest.mark.parametrize("name", ["a.mov", "a", "", "a.mp4/..", "/", "./", "../"])
def test_unknown_endings_say_what_works(tmp_path: Path, name: str) -> None:
    for attempt in (check_writable, lambda path: Writer(path, fps=24)):
        with pytest.raises(ValueError, match=r"such as clips/clip\.mp4, or in '/' for a folder"):
            attempt(f"{tmp_path}/{name}" if name[:1].isalpha() else name)


def test_gif_cannot_be_faster_than_its_clock(tmp_path: Path) -> None:
    write(tmp_path / "a.gif", render(5), fps=100)
    assert read_video(tmp_path / "a.gif")[1] == 100
    with pytest.raises(ValueError, match="fps must be above 0 and at most 100; got 120"):
        Writer("a.gif", fps=120)


@pytest.mark.parametrize(("fps", "crf"), [(0, 16), (-1, 16), (float("nan"), 16), (1e6, 16), (24, 52), (24, -1)])
def test_numbers_out_of_range(fps: float, crf: int) -> None:
    with pytest.raises(ValueError, match="fps must be" if crf == 16 else "crf must be between 0 and 51"):
        Writer("a.mp4", fps=fps, crf=crf)


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_missing_folder(tmp_path: Path, ending: str) -> None:
    path = f"{tmp_path}/none/a{ending}"
    for attempt in (lambda: check_writable(path), lambda: write(path, render(1))):
        with pytest.raises(FileNotFoundError) as caught:
            attempt()
        assert str(caught.value).endswith(f"the folder {tmp_path}/none does not exist; make it first")
        assert caught.value.errno == errno.ENOENT


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc")
def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(FileNotFoundError, match=r"/proc/a\.mp4: no files can be made in /proc; choose another folder"):
        check_writable("/proc/a.mp4")


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_name_that_is_too_long(tmp_path: Path, ending: str) -> None:
    """Told before a long job, though the temporary name beside it would fit."""
    path = f"{tmp_path}/{'a' * 256}{ending}"
    for attempt in (lambda: check_writable(path), lambda: write(path, render(1))):
        with pytest.raises(OSError, match="the name is too long for this disk; choose a shorter one") as caught:
            attempt()
        assert caught.value.errno == errno.ENAMETOOLONG
    assert contents(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "a.mp4")


def test_a_folder_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a folder has that name; for frames in a folder, end it in '/'"):
        check_writable(tmp_path / "a.mp4")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, code: int) -> None:
    """The tests may run as root, whom nothing is read-only to."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    path = f"{tmp_path}/a{ending}"
    for attempt in (lambda: check_writable(path), lambda: write(path, render(1))):
        with pytest.raises(
            PermissionError, match=r"^cannot write .* is read-only for this user; choose another folder$"
        ):
            attempt()


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.png", "a/"):
        check_writable(f"{tmp_path}/{name}")
    assert contents(tmp_path) == []


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".png"])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it fills up, down to the last byte, which FFmpeg writes when the file is closed."""
    clip = render(1 if ending == ".png" else 9)
    path = tmp_path / f"a{ending}"
    disk = small_disk(monkeypatch)
    disk.room = 1 << 20
    write(path, clip)
    whole = path.read_bytes()
    path.write_bytes(b"old")
    for room in (0, 40, len(whole) // 2, len(whole) - 1):
        disk.room = room
        with pytest.raises(OSError, match=r"^cannot write .*: the disk of .* is full; .* removed$") as caught:
            write(path, clip)
        assert caught.value.errno == errno.ENOSPC
        assert contents(tmp_path) == [path.name]
        assert path.read_bytes() == b"old"
    disk.room = len(whole)
    write(path, clip)
    assert path.read_bytes() == whole
    assert "exception" not in capfd.readouterr().err  # PyAV prints what is raised in its callbacks


def test_a_full_disk_while_writing_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def full(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if str(path).endswith("00002.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(OSError, match="is full"):
        write(f"{tmp_path}/a/", render(5))
    assert contents(tmp_path) == []


def test_an_interrupt_inside_the_encoder_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may arrive while FFmpeg calls back to write bytes; PyAV alone would lose it at the end of a file."""

    class Interrupted(io.FileIO):
        def write(self, _: Any) -> int:
            raise Stop

    monkeypatch.setattr(files, "open", lambda path, mode: Interrupted(path, mode.replace("b", "")), raising=False)
    with pytest.raises(Stop):
        write(tmp_path / "a.mp4", render(2))
    assert contents(tmp_path) == []
