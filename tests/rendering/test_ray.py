"""The same jobs on a Ray of this machine, with the real renderer in its actors."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.rendering.studio import Studio, events
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.ray_engine import work_on_ray
from videoaccel.rendering.run import work

ROOT = Path(__file__).parent.parent.parent.parent


def test_without_ray_it_says_what_to_install(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    render = studio.many(1)
    with pytest.raises(ValueError, match=r"pip install 'videoaccel\[ray\]'"):
        work_on_ray(render, Rules(), workers=1, tell=lambda event, about: None)
    assert not studio.out.exists()


@pytest.mark.slow
def test_actors_make_the_clips_that_a_lone_worker_makes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor's process is killed on the way."""
    pytest.importorskip("ray")
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    render = studio.open({"prompt": "a red circle", "seed": {"from": 0, "to": 7}, "threads": 1})
    render.folder.prepare()
    heard: list[str] = []

    def tell(event: str, about: Mapping[str, Any]) -> None:
        heard.append(event)
        if heard.count("done") == 1 and event == "done":
            beat = render.folder.workers / f"{about['worker']}.beat"
            os.kill(int(beat.read_text().split()[5]), signal.SIGKILL)

    outcome = work_on_ray(render, Rules(stale=10.0), workers=2, tell=tell, num_cpus=2)
    assert outcome.done == 8 and not outcome.interrupted and outcome.left == 0
    assert len(events(render, "done")) == 8 and len({row["worker"] for row in events(render, "done")}) >= 2
    assert list(render.folder.leases.path.iterdir()) == []
    alone = studio.open(out=studio.root / "alone")
    work(alone)
    for job in render.plan.jobs:
        file = Path(job.folder) / job.job.file
        assert (render.folder.clips / file).read_bytes() == (alone.folder.clips / file).read_bytes()
