"""Machines without a home folder, and names that begin with a tilde."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from videoaccel.common import home
from videoaccel.common.files import make_shelf
from videoaccel.common.home import cache_folder, cached_at, expand, expand_text, kept_nowhere, place
from videoaccel.jobs.resolve import resolve
from videoaccel.settings.layers import Layer, merge


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with a user id without an account."""

    def nowhere(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    for name in ("HOME", "XDG_CACHE_HOME", "VBENCH_CACHE_DIR", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    home._tell.cache_clear()


def test_names_that_begin_with_a_tilde_are_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [expand(name) for name in ("~clip.mp4", "~user/a.mp4", "a/~/b")] == [
        Path("~clip.mp4"),
        Path("~user/a.mp4"),
        Path("a/~/b"),
    ]
    assert expand("~/a.mp4") == tmp_path / "a.mp4" and expand("~") == tmp_path
    assert expand_text("~/frames/") == f"{tmp_path}/frames/"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_nothing_is_cached_and_that_is_told_once() -> None:
    with pytest.warns(UserWarning, match=r"no home folder .*nothing is cached; XDG_CACHE_HOME names"):
        folder = cache_folder("costs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_folder("costs") == folder and kept_nowhere(folder) and not folder.exists()
        assert place(folder) == "no folder, since this user has no home"
        assert list(folder.glob("*")) == [] and kept_nowhere(cached_at("~/.cache/vbench"))
        with pytest.raises(OSError, match=r"."):
            folder.mkdir(parents=True)
        with pytest.raises(ValueError, match=r"^there is no home .* could keep the prior; give a file as `output`$"):
            make_shelf(folder, what="prior")
    with pytest.raises(ValueError, match=r"~/a\.mp4: this user has no home folder \(HOME is not set\); give the whole"):
        expand("~/a.mp4")


def test_files_with_a_tilde_come_in_and_go_out(
    pipeline_folder: Path, picture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Path("~a.png").write_bytes(Path(picture).read_bytes())
    (tmp_path / "home" / "b.png").write_bytes(Path(picture).read_bytes())
    for given, output, there in (("~a.png", "~out.mp4", "~out.mp4"), ("~/b.png", "~/out.mp4", "home/out.mp4")):
        values = {"prompt": "a", "model": str(pipeline_folder), "images": [given], "output": output}
        order = resolve(merge([Layer(values)]))
        assert order.outputs[0].clip == (output if there == output else str(tmp_path / there))


def _homeless(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process whose user id has no account, and no HOME."""
    lost = {"HOME", "XDG_CACHE_HOME", "VBENCH_CACHE_DIR", "TORCH_HOME"}
    env = {name: value for name, value in os.environ.items() if name not in lost}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    code = (
        "import pathlib, sys\n"
        "def no(*_): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = pathlib.Path.expanduser = no\n"
        f"sys.argv = ['videoaccel', *{list(arguments)!r}]\n"
        "from videoaccel.__main__ import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("doctor",), ("cache", "list"), ("plan", "--accel", "fora"), ("generate", "a cat", "--speedup", "1.5")],
)
def test_commands_run_without_a_home(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = _homeless(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no home folder") <= 1 and "RuntimeError" not in done.stderr


def test_every_path_is_expanded_in_one_way() -> None:
    """``Path.expanduser`` raises where there is no home, and takes files that begin with ~ for users."""
    package = Path(__file__).parents[2] / "videoaccel"
    users = [path for path in package.rglob("*.py") if ".expanduser()" in path.read_text(encoding="utf-8")]
    assert [path.name for path in users] == ["home.py"] or not users
