import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clips import contents
from tests.disks import Stop, small_disk
from videoaccel.common.files import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_text,
    check_creatable,
    check_folder,
    check_results_place,
    make_folder,
    make_shelf,
    sidecar_beside,
    sidecar_of,
    sweep_parts,
)


def test_atomic_text_and_bytes(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.json", "größer\n")
    assert (tmp_path / "a.json").read_bytes() == "größer\n".encode()
    atomic_write_bytes(tmp_path / "a.json", b"\0\1")
    assert (tmp_path / "a.json").read_bytes() == b"\0\1"
    assert contents(tmp_path) == ["a.json"]


def test_atomic_file_keeps_the_old_one_on_failure(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(Stop), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        raise Stop
    assert (tmp_path / "a").read_text() == "old"
    assert contents(tmp_path) == ["a"]


def test_one_missing_folder_is_made(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "clip.mp4")
    make_folder(tmp_path / "a" / "other.mp4")
    check_folder(tmp_path / "b" / "clip.mp4")
    for put in (make_folder, check_folder):
        with pytest.raises(FileNotFoundError, match=f"the folder {tmp_path}/no/where does not exist; make it first"):
            put(tmp_path / "no" / "where" / "clip.mp4")
    assert contents(tmp_path) == ["a"]


def test_a_name_too_long_and_a_read_only_folder_are_seen_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="the name is too long for this disk"):
        check_folder(tmp_path / ("x" * 300))
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    (tmp_path / "sub").mkdir()
    check_folder(tmp_path / "sub" / "clip.mp4")
    with pytest.raises(PermissionError, match="is read-only for this user; choose another folder"):
        check_folder(tmp_path / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def test_sidecar_errors_are_worded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small_disk(monkeypatch)
    with pytest.raises(OSError, match="is full"):
        atomic_write_text(tmp_path / "a.json", "x" * 1000)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        atomic_write_text(tmp_path / "none" / "a.json", "")
    disk.room = 1 << 20
    with pytest.raises(OSError, match="the name is too long"):
        atomic_write_text(tmp_path / ("a" * 300), "")
    long = "ä" * 120 + ".json"
    atomic_write_text(tmp_path / long, "fits")
    assert contents(tmp_path) == [long]


def test_clips_that_differ_in_their_ending_have_sidecars_of_their_own(tmp_path: Path) -> None:
    mp4, gif, frames = (str(tmp_path / name) for name in ("out.mp4", "out.gif", "out/"))
    assert sidecar_beside(mp4) == sidecar_beside(gif) == sidecar_beside(frames) == tmp_path / "out.json"
    Path(mp4).touch()
    (tmp_path / "out.json").write_text('{"output": {"file": "out.mp4"}}')
    assert sidecar_beside(mp4) == tmp_path / "out.json"  # made again: it is replaced
    assert sidecar_beside(gif) == tmp_path / "out.gif.json" and sidecar_of(Path(gif)) == tmp_path / "out.json"
    (tmp_path / "out.gif.json").touch()
    assert sidecar_of(Path(gif)) == tmp_path / "out.gif.json" and sidecar_of(Path(mp4)) == tmp_path / "out.json"
    Path(mp4).unlink()  # whose sidecar is of no use to anybody
    assert sidecar_beside(gif) == tmp_path / "out.json"
    (tmp_path / "out.json").write_text("[]")
    assert sidecar_beside(gif) == tmp_path / "out.json"


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    code = (
        "import os, signal, sys; from pathlib import Path; from videoaccel.common.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    mine = tmp_path / f".out.mp4.{os.getpid()}-0123abcd.part"  # of an older form: nobody knows whose
    mine.touch()
    (left,) = (other for other in tmp_path.iterdir() if other != mine)
    sweep_parts(tmp_path / "out.gif")
    assert left.exists()
    with atomic_file(path) as file:
        file.write(b"whole")
        sweep_parts(path)  # what is being written stays
    assert sorted(tmp_path.iterdir()) == sorted([mine, path])


@pytest.mark.parametrize("able", [check_creatable, check_folder])
def test_a_place_for_results(tmp_path: Path, able: Callable[[Path], None]) -> None:
    """A folder, or none yet; no file in its place, and no folder in a file's."""
    names = ("page.html", "data.json")
    check_results_place(tmp_path, names, what="a report", able=able)
    check_results_place(tmp_path / "new", names, what="a report", able=able)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.txt").touch()
    with pytest.raises(NotADirectoryError, match=r"^cannot write a report to .*a\.txt: it is not a folder$"):
        check_results_place(tmp_path / "a.txt", names, what="a report", able=able)
    (tmp_path / "data.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"data\.json: it is a folder"):
        check_results_place(tmp_path, names, what="a report", able=able)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        check_results_place(tmp_path / "no" / "where" / "new", names, what="a report", able=able)


def test_a_shelf_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "priors"
    assert make_shelf(folder, what="prior") == folder and folder.is_dir() and not list(folder.iterdir())
    folder.rmdir()
    folder.touch()
    with pytest.raises(FileExistsError):
        make_shelf(folder, what="prior")
