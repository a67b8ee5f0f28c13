"""Nothing outside of a render's folder is ever touched, whatever names and links somebody has put into it."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.rendering.studio import Studio, check_whole
from videoaccel.rendering import handles
from videoaccel.rendering.estimate import estimate
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.follow import Follower
from videoaccel.rendering.heartbeat import _process
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.run import Render, cancel, keep_plan, retry, verify_clips
from videoaccel.rendering.state import Status, read_status
from videoaccel.rendering.suite import publish

RULES = Rules(stale=0.05, pause=0.05)

FOLDERS = (
    "clips", "manifest", ".render", ".render/leases", ".render/workers", ".render/staging", ".render/text",
    ".render/plans", ".render/cancelled", "vbench",
)  # fmt: skip
"""Every folder that a render writes or deletes in."""


def gone_beat() -> str:
    """The counter of a process of this machine that is gone, so that its worker is taken for dead at once."""
    here = _process().split()
    here[3:5] = ["999999", "1"]
    return f"{1:020d} {60:020.3f} {' '.join(here)}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What is somebody's own."""
    for name in ("home", "home/victim", "home/empty", "home/clip-0123456789abcdef"):
        (tmp_path / name).mkdir()
    for name in ("victim/data", "victim.json", "victim.beat", "settings.json", "a.safetensors", "bashrc"):
        (tmp_path / "home" / name).write_text("precious")
    (tmp_path / "home" / ".x.part").write_text("precious")
    return tmp_path / "home"


def snapshot(home: Path) -> dict[str, Any]:
    """Every path with what it holds and when it was changed."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [home, *sorted(home.rglob("*"))]
    }


def hostile_names(home: Path) -> list[Any]:
    up = os.path.relpath(home, home.parent / "out" / ".render" / "staging")
    return [
        f"{up}/victim", f"{home}/victim", f"{home}/settings", f"{up}/new", "..", ".", "...", "", "a/b", "a\\b", "\0",
        "a\nb", "-rf", "x" * 5000, "ü", "w\ud800", 7, None, [], {"a": 1}, True, "../staging", "CON", "[red]",
    ]  # fmt: skip


def play(studio: Studio) -> list[str]:
    """All that is ever done to a folder; returns what was said of it."""
    said: list[str] = []

    def attempt(act: Any) -> Any:
        try:
            return act()
        except (ValueError, OSError) as error:  # a sentence for the user
            said.append(str(error))
        return None

    render: Render | None = attempt(studio.open)
    folder = render.folder if render is not None else RenderFolder(studio.out)
    found: Status | None = attempt(lambda: read_status(folder))
    for job in found.jobs if found is not None else ():
        attempt(lambda job=job: cancel(folder, [job.id]))
    attempt(lambda: cancel(folder))
    attempt(lambda: list(Follower(folder.manifest).new()))
    if render is not None:
        attempt(lambda: retry(render))
        attempt(lambda: list(verify_clips(folder)))
        attempt(lambda: studio.work(render, rules=RULES, name="w1"))
        attempt(lambda: estimate(render, time=False))
        attempt(lambda: publish(render.plan, folder))
        attempt(lambda: list(verify_clips(folder)))
        attempt(lambda: retry(render))
    attempt(lambda: read_status(folder))
    return said


def plant_names(render: Render, name: Any) -> None:
    """One hostile value in every place where a name is read."""
    folder, text = render.folder, json.dumps(name)
    first, second, third = (job.id for job in render.plan.jobs[:3])
    (folder.leases / f"{first}.1.lease").write_text(f'{{"worker": {text}}}')
    (folder.leases / f"{second}.1.failed").write_text(f'{{"error": {text}, "worker": {text}}}')
    (folder.leases / f"{third}.1.dead-ab").write_text(text)
    row = f'{{"id": {text}, "unit": {text}, "name": {text}, "prompt": {text}, "line": {text}}}'
    other = f'{{"id": "{first}", "unit": {text}, "name": {text}, "prompt": "x"}}'
    (folder.plans / "other.json").write_text(f'{{"file": {text}, "jobs": [{row}, {other}, {text}]}}')
    (folder.plans / "odd.json").write_text(f'{{"jobs": {text}}}')
    (folder.workers / "gone.beat").write_text(gone_beat())
    (folder.workers / "gone.json").write_text(f'{{"job": {text}, "stage": {text}, "total": {text}, "batch": [{text}]}}')
    for event in ("done", "taken", "failed", "gave_up"):
        fields = ", ".join(f'"{key}": {text}' for key in ("worker", "job", "name", "dead", "error", "seconds", "time"))
        with (folder.manifest / "gone.jsonl").open("a") as file:
            file.write(f'{{"event": "{event}", {fields}}}\n')
    (folder.work / "hashes.json").write_text(f'{{"{studio_file(render)}": {text}}}')
    clip = folder.clips / render.plan.jobs[-1].folder
    if clip.is_dir():
        (clip / f"{render.plan.jobs[-1].job.name}.json").write_text(
            f'{{"output": {{"file": {text}, "sha256": {text}}}, "job": {{"id": {text}, "group": {text}}}, "seconds": '
            f'{{"denoise": {text}}}, "settings": {text}, "prompt": {text}, "peak_memory_bytes": {text}}}'
        )
    if isinstance(name, str) and name.isascii() and "/" not in name and "\0" not in name and 0 < len(name) < 100:
        for place in (folder.workers, folder.cancelled, folder.manifest, folder.plans, folder.leases, folder.text):
            for suffix in (".beat", ".json", ".lease", ".jsonl", ".safetensors"):
                (place / f"{name}{suffix}").write_text(gone_beat())
        with suppress(FileExistsError):
            (folder.staging / name).mkdir()


def studio_file(render: Render) -> str:
    return str(next((render.jobs.parent).glob("*"), render.jobs))


@pytest.mark.parametrize("number", range(24))
def test_names_lead_nowhere(studio: Studio, home: Path, number: int) -> None:
    render = studio.many(4)
    studio.work(render, rules=RULES)
    for job in render.plan.jobs[:3]:
        shutil.rmtree(render.folder.clips / job.folder)
    name, before = hostile_names(home)[number], snapshot(home)
    plant_names(render, name)
    play(studio)
    assert snapshot(home) == before
    assert sorted(path.name for path in studio.root.iterdir()) == ["home", "jobs.jsonl", "out"]
    studio.work(render, rules=RULES)
    assert studio.work(render, rules=RULES).done == 4, "and the render goes on"


def test_what_is_not_understood_is_counted(studio: Studio, home: Path) -> None:
    render = studio.many(3)
    render.folder.prepare()
    keep_plan(render)
    assert read_status(render.folder).passed_over == 0
    plant_names(render, "../x")
    found = read_status(render.folder)
    assert len(found.jobs) == 3 and {job.id for job in found.jobs} == {job.id for job in render.plan.jobs}
    # a lease, two rows and a value of one plan, another plan, four lines of a manifest
    assert found.passed_over == 9 and found.first_passed is not None
    assert found.as_data()["passed_over"] == 9


def links(studio: Studio, render: Render, home: Path) -> Iterator[tuple[Path, Path]]:
    """Every place in which a file or a folder is expected, and what outside it may be a link to."""
    folder, job = render.folder, render.plan.jobs[0]
    for name in FOLDERS:
        yield studio.out / name, home
        yield studio.out / name, home / "victim"
    for name in ("w1", "gone", "broken-1"):
        yield folder.staging / name, home / "victim"
    yield folder.clips / job.folder, home / "clip-0123456789abcdef"
    yield folder.clips / "clip-0123456789abcdef", home / "clip-0123456789abcdef"
    files = (
        studio.out / "index.html", folder.work / "format", folder.work / "hashes.json",
        folder.leases / f"{job.id}.1.lease", folder.leases / f"{job.id}.2.failed", folder.leases / f"{job.id}.3.dead-a",
        folder.workers / "gone.beat", folder.workers / "gone.json", folder.workers / "w1.beat",
        folder.workers / "w1.json", folder.manifest / "w1.jsonl", folder.manifest / "gone.jsonl",
        folder.cancelled / job.id, folder.cancelled / "all-x", folder.plans / "jobs.jsonl-00000000.json",
        folder.text / "a.safetensors", folder.text / ".a.safetensors.1-2.part", folder.leases / ".x.part",
        folder.clips / job.folder / f"{job.job.name}.json", folder.clips / job.folder / job.job.file,
        folder.clips / job.folder / "poster.jpg", studio.out / "vbench" / "a red circle-0.mp4",
        studio.out / "vbench" / ".1.part", studio.out / ".index.html.x.part",
    )  # fmt: skip
    for file in files:
        yield file, home / "bashrc"
        yield file, home / "victim"
        yield file, home / "not-there"


@pytest.mark.parametrize(
    ("finished", "every"),
    [
        (True, 2),
        (False, 4),
        pytest.param(True, 1, marks=pytest.mark.slow),
        pytest.param(False, 1, marks=pytest.mark.slow),
    ],
)
def test_links_lead_nowhere(studio: Studio, home: Path, finished: bool, every: int) -> None:
    render = studio.many(2)
    before, original = snapshot(home), studio.root / "original"
    if finished:
        studio.work(render, rules=RULES)
        publish(render.plan, render.folder)
    else:
        render.folder.prepare()
    (render.folder.workers / "gone.beat").write_text(gone_beat())
    (render.folder.leases / f"{'0' * 16}.1.lease").write_text('{"worker": "gone"}')
    shutil.copytree(studio.out, original, symlinks=True)
    planted = list(links(studio, render, home))
    for place, target in planted[::every]:
        shutil.rmtree(studio.out)
        shutil.copytree(original, studio.out, symlinks=True)
        if place.parent.is_dir():
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)
            place.symlink_to(target)
            said = play(studio)
            assert snapshot(home) == before, (place, target)
            assert all(len(text) < 400 for text in said)
    assert len(planted) > 90


def test_a_folder_that_is_a_link_is_told(studio: Studio, home: Path) -> None:
    render = studio.many(1)
    render.folder.prepare()
    render.folder.staging.path.rmdir()
    render.folder.staging.path.symlink_to(home)
    with pytest.raises(NotADirectoryError, match=r"staging is a link, or no folder: a render writes and deletes only"):
        studio.work(render)


def test_a_root_that_is_a_link_is_the_users_own_word(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    studio.out.symlink_to(tmp_path / "disk")
    render = studio.many(2)
    studio.work(render)
    check_whole(render)


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_folder_is_read_and_written_as_it_is(
    tmp_path: Path, by_handle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "BY_HANDLE", by_handle)
    place = Inside(tmp_path, ("a", "b"))
    assert place.names() == [] and not place.exists("x")
    place.make()
    place.write("x", b"one")
    place.write("x", b"two")
    place.overwrite("beat", b"1234")
    place.overwrite("beat", b"56")
    place.append("rows", b"a\n")
    place.append("rows", b"b\n")
    assert place.create("lease", b"mine") and not place.create("lease", b"yours")
    found = {name: place.read(name, limit=10) for name in place.names()}
    assert found == {"beat": b"5634", "lease": b"mine", "rows": b"a\nb\n", "x": b"two"} and place.size() == 15
    place.rename("x", "y", into=Inside(tmp_path, ("a",)))
    assert (tmp_path / "a" / "y").read_bytes() == b"two" and not place.exists("x")
    place.unlink("x")
    Inside(tmp_path).remove("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_handle", [True, False])
def test_links_on_the_way_are_no_way(
    tmp_path: Path, home: Path, by_handle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "BY_HANDLE", by_handle)
    before, root = snapshot(home), tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(home)
    (root / "file").symlink_to(home / "bashrc")
    top, place = Inside(root), Inside(root, ("link",))
    for act in (
        place.names, place.make, place.folder("victim").names, lambda: place.write("x", b""),
        lambda: place.create("x", b""), lambda: place.append("bashrc", b"x"), lambda: place.unlink("bashrc"),
        lambda: place.rename("bashrc", "x"), lambda: top.rename("file", "x", into=place), place.folder("x").make,
    ):  # fmt: skip
        with pytest.raises(NotADirectoryError, match="is a link, or no folder"):
            act()
    place.remove("victim")
    for name in ("..", "../home/bashrc", "", ".", "a/b", "a\0", str(home / "bashrc")):
        for act in (top.unlink, top.remove, top.folder(name).names, top.folder(name).make):
            with pytest.raises(ValueError, match="is not the name of a file"):
                act(*([name] if act in (top.unlink, top.remove) else []))
    for act in (
        lambda: top.append("file", b"x"),
        lambda: top.overwrite("file", b"x"),
        lambda: top.read("file", limit=9),
    ):
        with pytest.raises(OSError, match="symbolic links"):
            act()
    top.write("file", b"own")
    assert (root / "file").read_bytes() == b"own" and not (root / "file").is_symlink()
    top.remove("link")
    assert snapshot(home) == before and not (root / "link").exists()


def test_only_plain_files_are_read_and_never_more_than_they_may_have(tmp_path: Path) -> None:
    place = Inside(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(bytes(11))
    for name in ("pipe", "zero", "folder", "large"):
        with pytest.raises(OSError):
            place.read(name, limit=10)
    os.link(tmp_path / "large", tmp_path / "second")
    with pytest.raises(OSError, match="second name"):
        place.append("second", b"x")


MODULES = {
    "os": {
        "open",
        "unlink",
        "rmdir",
        "mkdir",
        "makedirs",
        "rename",
        "replace",
        "link",
        "symlink",
        "remove",
        "truncate",
    },
    "shutil": {"rmtree", "copy", "copy2", "copyfile", "copytree", "move", "chown"},
    "": {"open", "atomic_write_text", "atomic_write_bytes", "atomic_file", "atomic_folder"},
}
PATHS = {
    "open",
    "unlink",
    "rmdir",
    "mkdir",
    "rename",
    "write_text",
    "write_bytes",
    "touch",
    "symlink_to",
    "hardlink_to",
}
PLACES = {
    "self", "at", "folder", "place", "own", "worker", "clips", "leases", "text", "cancelled", "clip", "into", "staging",
}  # fmt: skip
"""What values of `Inside` are called in this room."""


DOORS = ("handles.py", "inside.py", "copies.py")
"""Files that write: the door, and copies for decoders, which lie in a folder of their own outside of the render."""


def test_nothing_else_in_render_writes_moves_or_deletes() -> None:
    """Whoever adds a file to this room uses the door, too."""
    found = []
    for path in sorted(Path(handles.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path.name not in DOORS:
                of, _, name = ast.unparse(node.func).rpartition(".")
                if name in MODULES.get(of, ()) or (of and name in PATHS and of.rpartition(".")[2] not in PLACES):
                    found.append(f"{path.name}: {ast.unparse(node)}")
    # The root is the user's own word.
    assert found == ["folder.py: self.root.mkdir(exist_ok=True)"]
