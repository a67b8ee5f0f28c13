"""What the job layer costs: seconds it adds to a clip, and how long it takes to look through 10,000 finished jobs.

    python -m benchmarks.render

A renderer that makes nothing but small files in no time stands in for the networks, so all that is measured is ours:
planning, leases, heartbeats, manifests, syncing, renaming, the gallery. Its own writing is measured, too, and
subtracted. Needs no network; the tiny pipeline of the tests stands in for a model.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import keep
from tests.rendering.studio import FakeRenderer, Studio
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.run import Render

_NOTE = "without importing torch; where other work shares the processor, wall-clock times are longer than CPU times"

CLIP = 10.0
"""Seconds of the clip that the layer's cost is held against."""


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tiny_pipeline().save_pretrained(root / "model")
        result = {
            "job_layer": _overhead(root, options.clips),
            "rescan": _rescan(root, options.finished, options.rounds),
        }
    keep("render", result)


def _overhead(root: Path, clips: int) -> dict[str, object]:
    """Seconds a clip of a worker with a renderer that takes none, against the renderer alone."""
    studio = Studio(_new(root, "overhead"), root / "model")
    render = studio.many(clips)
    alone: list[float] = []
    times: list[float] = []
    studio.work(render, FakeRenderer(), rules=Rules(), tell=lambda event, about: times.append(time.perf_counter())
                if event in ("started", "done") else None)  # fmt: skip
    whole = [b - a for a, b in itertools.pairwise(times)]
    renderer, empty = FakeRenderer(), studio.root / "alone"
    for unit in render.plan.units:
        place = empty / unit.id
        place.mkdir(parents=True)
        began = time.perf_counter()
        renderer.make(unit, {unit.id: place}, listener=lambda stage, done, total: None)
        alone.append(time.perf_counter() - began)
    added = statistics.median(whole) - statistics.median(alone)
    return {
        "clips": clips,
        "seconds_a_clip_median": round(statistics.median(whole), 5),
        "seconds_a_clip_p95": round(statistics.quantiles(whole, n=20)[-1], 5),
        "renderer_alone_median": round(statistics.median(alone), 5),
        "added_seconds": round(added, 5),
        "percent_of_a_10_s_clip": round(100 * added / CLIP, 3),
    }


def _rescan(root: Path, finished: int, rounds: int) -> dict[str, object]:
    """A second run of a job file of which everything is finished: opening it, and a worker that finds nothing to do."""
    studio = Studio(_new(root, "rescan"), root / "model")
    render = studio.many(finished)
    render.folder.prepare()
    for job in render.plan.jobs:
        place = render.folder.clips / job.folder
        place.mkdir()
        (place / job.job.file).write_bytes(b"clip")
        (place / f"{job.job.name}.json").write_text(json.dumps({"job": {"id": job.id}}))
    studio.write(*[{"prompt": job.job.prompt, "seed": job.job.settings.seed} for job in render.plan.jobs])
    opened, worked, busy = [], [], []
    again: Render | None = None
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        again = studio.open()
        opened.append(time.perf_counter() - began)
        began = time.perf_counter()
        outcome = studio.work(again, FakeRenderer(), rules=Rules())
        worked.append(time.perf_counter() - began)
        busy.append(time.process_time() - spent)
        assert (outcome.done, outcome.made) == (finished, 0)
    return {
        "finished_jobs": finished,
        "open_seconds": [round(took, 3) for took in opened],
        "work_seconds": [round(took, 3) for took in worked],
        "median_seconds": round(statistics.median(a + b for a, b in zip(opened, worked, strict=True)), 3),
        "cpu_seconds": [round(took, 3) for took in busy],
        "cpu_seconds_median": round(statistics.median(busy), 3),
        "note": _NOTE,
    }


def _new(root: Path, name: str) -> Path:
    path = root / name
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
