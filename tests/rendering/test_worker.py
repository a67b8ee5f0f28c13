"""One worker, and everything that can happen to it."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.rendering.studio import QUICK, FakeRenderer, Studio, check_whole, contents, events
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.rendering import room as room_module
from videoaccel.rendering.control import Control
from videoaccel.rendering.leases import Leases
from videoaccel.rendering.outcome import Outcome, Rules
from videoaccel.rendering.plan import Unit
from videoaccel.rendering.run import Render, cancel, retry, verify_clips
from videoaccel.rendering.state import read_status
from videoaccel.rendering.worker import ToldError


def counts(render: Render) -> dict[str, int]:
    found = read_status(render.folder).as_data()["counts"]
    return {state: count for state, count in found.items() if count}


def test_all_clips_and_then_nothing_more_to_do(studio: Studio) -> None:
    render = studio.many(4)
    outcome = studio.work(render)
    assert (outcome.made, outcome.done, outcome.left) == (4, 4, 0) and not outcome.interrupted
    check_whole(render)
    assert [row["event"] for row in events(render)] == ["started", *["claimed", "done"] * 4, "ended"]
    assert counts(render) == {"done": 4} and render.folder.gallery.exists()
    again = FakeRenderer()
    outcome = studio.work(studio.open(), again)
    assert (outcome.made, outcome.done) == (0, 4) and again.made == []


def test_a_changed_line_renders_only_itself(studio: Studio) -> None:
    lines = [{"prompt": f"clip {k}"} for k in range(3)]
    studio.work(studio.open(*lines))
    lines[1]["seed"] = 5
    lines[2]["name"] = "renamed"
    renderer, render = FakeRenderer(), studio.open(*lines)
    assert studio.work(render, renderer).made == 1
    assert renderer.made == [next(job.id for job in render.plan.jobs if job.job.line == 2)]
    assert len(render.folder.finished()) == 4, "the clip of the old line stays"


def test_failures_are_tried_again_and_given_up(studio: Studio) -> None:
    tries: list[str] = []

    def fail(unit: Unit) -> None:
        tries.append(unit.jobs[0].job.prompt)
        if unit.jobs[0].job.prompt == "poison" or (tries.count("weak") < 2 and tries[-1] == "weak"):
            raise RuntimeError("CUDA error: an illegal memory access")

    render = studio.open({"prompt": "poison"}, {"prompt": "weak"}, {"prompt": "good"})
    outcome = studio.work(render, FakeRenderer(before=fail))
    assert tries.count("poison") == 3 and tries.count("weak") == 2 and tries.count("good") == 1
    (poison,) = [job.id for job in render.plan.jobs if job.job.prompt == "poison"]
    assert outcome.gave_up == {poison: "RuntimeError: CUDA error: an illegal memory access"}
    assert outcome.done == 2 and counts(render) == {"done": 2, "failed": 1}
    assert [row["number"] for row in events(render, "failed") if row["job"] == poison] == [1, 2, 3]
    assert len(events(render, "gave_up")) == 1 and tries[:3] != ["poison"] * 3, "others go first"
    assert studio.work(render).gave_up == outcome.gave_up, "it stays given up"
    assert retry(render) == 1
    assert studio.work(render).done == 3
    check_whole(render)


def test_what_is_wrong_with_the_input_is_not_tried_again(studio: Studio) -> None:
    tries = []

    def fail(unit: Unit) -> None:
        tries.append(unit)
        raise ValueError("the video has 20 frames; continuing it takes at least 34")

    outcome = studio.work(studio.many(1), FakeRenderer(before=fail))
    assert len(tries) == 1 and list(outcome.gave_up.values()) == [
        "the video has 20 frames; continuing it takes at least 34"
    ]


def test_a_job_that_takes_too_long(studio: Studio) -> None:
    render = studio.many(1)
    rules = Rules(stale=1.0, timeout=0.05, tries=2)
    outcome = studio.work(render, FakeRenderer(seconds=0.4, steps=8), rules=rules)
    assert list(outcome.gave_up.values()) == ["it was not done after 0.05 s"]
    assert not render.folder.finished() and not list(render.folder.staging.path.iterdir())


def test_the_ladder_when_memory_runs_out(studio: Studio) -> None:
    short = 2

    def full(unit: Unit) -> None:
        nonlocal short
        short -= 1
        if short >= 0:
            raise OutOfMemoryError("out of memory on cuda during decode")

    render = studio.many(1)
    studio.work(render, FakeRenderer(before=full, eases=["offload", "vae_tiling"]))
    (folder,) = render.folder.finished().values()
    (record,) = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert record["job"]["memory"]["steps"] == ["offload", "vae_tiling"] and record["job"]["try"] == 1
    assert [step["because"] for step in record["job"]["memory"]["now"]] == ["out of memory on cuda during decode"] * 2
    assert [row["step"] for row in events(render, "memory")] == ["offload", "vae_tiling"]


def test_memory_that_runs_out_for_good_is_a_failure(studio: Studio) -> None:
    def full(unit: Unit) -> None:
        raise OutOfMemoryError("out of memory on cuda")

    outcome = studio.work(studio.many(1), FakeRenderer(before=full, eases=["offload"]))
    assert list(outcome.gave_up.values()) == ["out of memory on cuda"]


def full_disk(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_pauses_and_goes_on(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    looks = 0

    def usage(path: Path) -> Any:
        nonlocal looks
        looks += 1
        return shutil._ntuple_diskusage(1, 1, 0 if looks in (2, 3) else 1 << 40)  # type: ignore[attr-defined]

    monkeypatch.setattr(room_module.shutil, "disk_usage", usage)
    render = studio.many(3)
    outcome = studio.work(render, tell=lambda event, about: heard.append(event))
    assert outcome.done == 3 and heard.count("paused") == 1 and heard.count("resumed") == 1
    check_whole(render)
    assert events(render, "failed") == []


def test_a_disk_that_fills_up_in_the_middle_of_a_clip_or_a_line(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every writing fails for a while, whatever is written."""
    until = 0.0
    plain_write, plain_open = os.write, os.open

    def write(handle: int, data: bytes) -> int:
        if time.monotonic() < until:
            plain_write(handle, data[:3])
            full_disk()
        return plain_write(handle, data)

    def fill(unit: Unit) -> None:
        nonlocal until
        if until == 0.0:
            until = time.monotonic() + 0.3
            full_disk()

    monkeypatch.setattr(room_module.os, "write", write)
    render = studio.many(3)
    outcome = studio.work(render, FakeRenderer(before=fill))
    assert outcome.done == 3 and plain_open is os.open
    check_whole(render)
    for path in render.folder.manifest.path.iterdir():
        assert all(json.loads(line) for line in path.read_text().splitlines()), "no half line"
    assert events(render, "failed") == []


def test_other_faults_of_the_disk_are_failures(studio: Studio) -> None:
    def broken(unit: Unit) -> None:
        raise OSError(errno.EIO, "input/output error")

    assert len(studio.work(studio.many(1), FakeRenderer(before=broken)).gave_up) == 1


class StopAt:
    """Tells a worker to stop in the middle of a clip."""

    def __init__(self, step: int, *, grace: float) -> None:
        self.step, self.grace, self.seen = step, grace, 0

    def __call__(self, event: str, about: Any) -> None:
        self.seen += event == "step"
        if self.seen == self.step:
            self.control.stop(grace=self.grace)

    control: Control


@pytest.mark.parametrize(("grace", "made"), [(60.0, 1), (0.01, 0)])
def test_told_to_stop_it_finishes_or_gives_back(studio: Studio, grace: float, made: int) -> None:
    render = studio.many(3)
    render.folder.prepare()
    stop = StopAt(3, grace=grace)
    stop.control = Control(render.folder.cancelled)
    outcome = studio.work(render, FakeRenderer(seconds=0.2, steps=6), control=stop.control, tell=stop)
    assert outcome.interrupted and outcome.made == made and outcome.left == 3 - made
    assert list(render.folder.leases.path.iterdir()) == [] and list(render.folder.staging.path.iterdir()) == []
    assert len(events(render, "released")) == 1 - made
    assert studio.work(render).done == 3


def test_ctrl_c_gives_the_job_back(studio: Studio) -> None:
    def stop(unit: Unit) -> None:
        raise KeyboardInterrupt

    render = studio.many(2)
    with pytest.raises(KeyboardInterrupt):
        studio.work(render, FakeRenderer(before=stop))
    assert list(render.folder.leases.path.iterdir()) == [] and counts(render) == {"waiting": 2}


def test_cancelling_a_job_and_all(studio: Studio) -> None:
    render = studio.many(4)
    render.folder.prepare()
    ids = [job.id for job in render.plan.jobs]
    cancel(render.folder, ids[:1])
    outcome = studio.work(render)
    assert outcome.done == 3 and outcome.cancelled == ids[:1] and counts(render) == {"done": 3, "cancelled": 1}
    assert retry(render) == 1
    worker = threading.Thread(target=lambda: cancel(render.folder))
    slow = FakeRenderer(seconds=30.0, steps=60, before=lambda unit: worker.start())
    outcome = studio.work(render, slow)
    assert outcome.interrupted and outcome.left == 1
    assert studio.work(render).done == 4, "a later render does not mind"


def test_cancelled_while_it_is_made(studio: Studio) -> None:
    render = studio.many(1)
    slow = FakeRenderer(seconds=30.0, steps=60, before=lambda unit: cancel(render.folder, [unit.jobs[0].id]))
    outcome = studio.work(render, slow)
    assert outcome.cancelled == [render.plan.jobs[0].id] and not outcome.interrupted
    assert list(render.folder.leases.path.iterdir()) == []


def test_a_clip_that_another_had_finished_first(studio: Studio) -> None:
    """Two workers at one job cost time and nothing else."""
    render = studio.many(1)
    outcomes: list[Outcome] = []

    def overtaken(unit: Unit) -> None:
        if not outcomes:
            outcomes.append(Outcome())
            for path in render.folder.leases.path.iterdir():
                path.unlink()
            outcomes.append(studio.work(render))

    outcome = studio.work(render, FakeRenderer(before=overtaken))
    assert outcomes[1].made == 1 and outcome.made == 0 and outcome.done == 1
    assert len(events(render, "there")) == 1
    check_whole(render)


def test_half_of_a_copied_clip_is_made_anew(studio: Studio) -> None:
    render = studio.many(2)
    studio.work(render)
    job = render.plan.jobs[0]
    (render.folder.clips / job.folder / f"{job.job.name}.json").unlink()
    other = render.plan.jobs[1]
    (render.folder.clips / other.folder / other.job.file).write_bytes(b"half")
    assert studio.work(render).made == 1
    assert [name for name, _ in verify_clips(render.folder)] == [other.folder]
    assert studio.work(render).made == 1
    check_whole(render)


def test_the_dead_are_relieved_and_cleaned_up_after(studio: Studio) -> None:
    render = studio.many(2)
    render.folder.prepare()
    for job in render.plan.jobs:
        (render.folder.leases / f"{job.id}.1.lease").write_text('{"worker": "dead"}')
    (render.folder.workers / "dead.beat").write_text("7 0.5 ? ? ? ? ? ?")
    left = render.folder.staging / "dead" / "x"
    left.mkdir(parents=True)
    (left / "half.mp4").write_bytes(b"half")
    outcome = studio.work(render, rules=Rules(stale=0.5))
    assert outcome.done == 2 and len(events(render, "taken")) == 2
    check_whole(render)
    assert list(render.folder.workers.path.iterdir()) == []


def test_without_waiting_a_worker_leaves_what_others_are_at(studio: Studio) -> None:
    render = studio.many(2)
    render.folder.prepare()
    (render.folder.leases / f"{render.plan.jobs[0].id}.1.lease").write_text('{"worker": "far-away"}')
    outcome = studio.work(render, rules=Rules(wait=False))
    assert outcome.made == 1 and outcome.left == 1


def test_a_job_that_kills_its_workers_is_given_up(studio: Studio) -> None:
    render = studio.many(2)
    render.folder.prepare()
    job = render.plan.jobs[0].id
    for number in range(5):
        (render.folder.leases / f"{job}.{number + 1}.dead-abc{number}").write_text("")
    outcome = studio.work(render)
    assert outcome.gave_up == {job: "its worker died 5 times"} and outcome.done == 1


def test_batches_are_made_whole(studio: Studio) -> None:
    lines = [{"prompt": f"clip {k}"} for k in range(5)]
    render = studio.open(*lines, batching=2)
    assert studio.work(render).made == 5
    check_whole(render)
    unit = next(unit for unit in render.plan.units if len(unit.jobs) == 2)
    shutil.rmtree(render.folder.clips / unit.jobs[0].folder)
    renderer = FakeRenderer()
    assert studio.work(studio.open(*lines, batching=2), renderer).made == 1
    assert renderer.made == [unit.jobs[0].id], "only what is missing is written"


def test_the_status_of_a_render_at_work(studio: Studio) -> None:
    render = studio.many(3)
    seen: list[Any] = []

    def look(event: str, about: Any) -> None:
        if event == "step" and about["done"] == 1 and not seen:
            seen.append(read_status(render.folder))

    studio.work(render, tell=look)
    assert seen[0].count("running") == 1 and seen[0].count("waiting") == 2 and len(seen[0].workers) == 1
    (running,) = [job for job in seen[0].jobs if job.state == "running"]
    assert running.worker in seen[0].workers
    end = read_status(render.folder)
    assert end.count("done") == 3 and end.per_hour is not None and end.per_hour > 0 and end.seconds_left is None


def test_contents_are_what_the_job_says(studio: Studio) -> None:
    first, second = studio.many(2).plan.jobs
    assert contents(first) != contents(second) and QUICK.tries == 3


def test_a_clip_that_is_gone_since_the_plan_was_made_is_made_again(studio: Studio) -> None:
    """What is finished when a plan is made has no texts in it; they are worked out when they are needed after all."""
    studio.work(studio.many(1))
    render = studio.many(1)
    assert render.plan.jobs[0].texts == ()
    (render.folder.clips / render.plan.jobs[0].folder / render.plan.jobs[0].job.file).write_bytes(b"damaged")
    assert len(list(verify_clips(render.folder))) == 1
    texts: list[Any] = []
    keep = FakeRenderer(before=lambda unit: texts.append(unit.work_order({}).batches[0][0].texts))
    assert studio.work(render, keep).made == 1 and texts == [("a red circle",)]


def test_a_folder_called_index_html_is_no_fault_of_a_clips(studio: Studio) -> None:
    render = studio.many(2)
    render.folder.prepare()
    (studio.out / "index.html").mkdir()
    with pytest.warns(UserWarning, match="the gallery is not written"):
        outcome = studio.work(render)
    assert outcome.done == 2 and events(render, "failed") == [] and counts(render) == {"done": 2}


def test_whoever_is_told_fails_and_no_job_does(studio: Studio) -> None:
    def tell(event: str, about: Any) -> None:
        if event == "done":
            raise ZeroDivisionError("in somebody's own code")

    render = studio.many(2)
    with pytest.raises(ToldError, match="in somebody's own code"):
        studio.work(render, tell=tell)
    assert events(render, "failed") == [] and list(render.folder.leases.path.iterdir()) == []
    assert studio.work(render).done == 2


def test_a_worker_that_wakes_leaves_the_others_lease_alone(studio: Studio) -> None:
    """Its folder was thrown away by whoever took the job over; that is no failure, and the job is not its own."""
    render = studio.many(1)
    job = render.plan.jobs[0].id

    def overtaken(unit: Unit) -> None:
        if not (render.folder.leases / f"{job}.2.lease").exists() and not events(render, "lost"):
            other = Leases(render.folder.leases, "other")
            (lease,) = [one for one in other.held_by("w1")]
            assert other.take(lease) and other.claim(job, other.look()[job])
            render.folder.sweep("w1")
            (render.folder.workers / "other.beat").write_text("1 0.5 ? ? ? ? ? ?")

    outcome = studio.work(render, FakeRenderer(before=overtaken), rules=Rules(stale=0.5, wait=False), name="w1")
    assert outcome.left == 1 and outcome.gave_up == {} and events(render, "failed") == []
    assert len(events(render, "lost")) == 1
    assert [path.name for path in render.folder.leases.path.glob("*.lease")] == [f"{job}.2.lease"]
    assert studio.work(render, rules=Rules(stale=0.5)).done == 1
