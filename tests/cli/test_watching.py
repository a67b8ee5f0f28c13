"""``videoaccel status --watch``: it looks again until all is done, nobody is at work, Ctrl-C, or the folder is gone."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.commands import Cli, Result
from tests.rendering.studio import Studio
from videoaccel.cli import status
from videoaccel.rendering.heartbeat import Heartbeat
from videoaccel.rendering.run import Render, keep_plan

Watch = Callable[..., Result]


@pytest.fixture
def render(tmp_path: Path, pipeline_folder: Path) -> Iterator[Render]:
    """Two jobs, and a worker that has begun with none."""
    render = Studio(tmp_path, pipeline_folder).many(2)
    render.folder.prepare()
    keep_plan(render)
    with Heartbeat(render.folder.workers, "w"):
        yield render


@pytest.fixture
def watch(cli: Cli, render: Render, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches, and does something in place of each pause."""

    def call(*pauses: Callable[[], object]) -> Result:
        todo = iter(pauses)
        monkeypatch.setattr(status, "time", SimpleNamespace(sleep=lambda seconds: next(todo)()))
        done = cli("status", render.folder.root, "--watch")
        assert next(todo, None) is None, "it looks again until nothing is left to see"
        return done

    return call


def make_clips(render: Render) -> None:
    Studio(render.folder.root.parent, Path()).work(render)


def test_until_all_is_done(watch: Watch, render: Render) -> None:
    done = watch(lambda: None, lambda: make_clips(render))
    assert (done.code, done.out, done.err) == (0, "2 done, 0 running\n", "")


def test_on_a_terminal_the_table_is_drawn_again(watch: Watch, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = watch(lambda: None, lambda: make_clips(render))
    assert done.code == 0 and done.err == ""
    assert done.out.count("0 done, 0 running") >= 2 and done.out.count("2 done, 0 running") >= 1
    assert done.out.endswith("\x1b[?25h"), "the cursor is there again"


def test_until_nobody_is_at_work(watch: Watch, render: Render) -> None:
    done = watch(lambda: None, lambda: render.folder.workers.unlink("w.beat"))
    assert done.code == 0 and done.out.startswith("0 done, 0 running, 2 waiting")


def test_until_somebody_has_enough(watch: Watch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    done = watch(lambda: None, interrupt)
    assert done.code == 130 and done.err == "videoaccel: stopped; no half-written file was left\n"


def test_a_folder_that_vanishes_meanwhile(watch: Watch, render: Render) -> None:
    root = render.folder.root
    done = watch(lambda: None, lambda: shutil.rmtree(root))
    assert done.code == 2 and done.err == f"videoaccel: {root} was removed, or holds no render any more\n"
    assert not root.exists()
