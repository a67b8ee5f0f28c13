"""A render without networks: job files, plans, and a renderer that makes clips of a few bytes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoaccel.common.stages import Listener
from videoaccel.jobs.generate import Clip
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.jobs.samples import Outputs
from videoaccel.rendering.control import Control
from videoaccel.rendering.outcome import Outcome, Rules
from videoaccel.rendering.plan import Planned, Unit
from videoaccel.rendering.run import Render, open_render, work
from videoaccel.settings.layers import Layer

QUICK = Rules(stale=1.0, pause=0.05)


def contents(job: Planned) -> bytes:
    """What the clip of a job is."""
    return hashlib.sha256(f"{job.job.prompt} {job.job.settings.seed}".encode()).digest() * 64


@dataclass
class FakeRenderer:
    """Makes files of a few bytes in a few steps.

    Attributes:
        seconds: Of a clip.
        steps: Of a clip; the listener hears of each.
        before: Called with the unit before it is made; may raise.
        eases: What `ease` still knows.
    """

    seconds: float = 0.0
    steps: int = 3
    before: Callable[[Unit], None] = lambda unit: None
    eases: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    taken: tuple[str, ...] = ()

    def make(self, unit: Unit, into: Mapping[str, Path], *, listener: Listener) -> list[tuple[Planned, Clip]]:
        self.before(unit)
        found = []
        for job in unit.jobs:
            if job.id not in into:
                continue
            folder, name, data = into[job.id], job.job.name, contents(job)
            for step in range(self.steps):
                listener("denoise", step, self.steps)
                time.sleep(self.seconds / self.steps)
                with (folder / job.job.file).open("ab") as file:  # a killed worker leaves half of it
                    file.write(data[step :: self.steps])
            (folder / job.job.file).write_bytes(data)
            (folder / "poster.jpg").write_bytes(b"jpeg")
            listener("denoise", self.steps, self.steps)
            record = {
                "prompt": job.job.prompt, "seed": job.job.settings.seed, "created": "2026-01-01T00:00:00+00:00",
                "settings": job.group.order.settings.model_dump(mode="json"),
                "output": {"file": job.job.file, "sha256": hashlib.sha256(data).hexdigest(), "frames": 1, "height": 32,
                           "width": 32, "fps": 8.0},
                "seconds": {"denoise": 1.0, "decode": 0.5}, "peak_memory_bytes": 1 << 20,
                "machine": {"name": "none", "threads": 1}, "versions": {"torch": "2"},
            }  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(record))
            found.append((job, Clip(Outputs(str(folder / job.job.file), folder / f"{name}.json", None), record)))
            self.made.append(job.id)
        return found

    def ease(self, unit: Unit, error: OutOfMemoryError) -> str | None:
        step = self.eases.pop(0) if self.eases else None
        self.taken += (step,) if step else ()
        return step

    def eased(self, unit: Unit) -> tuple[str, ...]:
        return self.taken


@dataclass
class Studio:
    """A job file and a folder for its clips."""

    root: Path
    model: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.root / "out"

    def write(self, *lines: Mapping[str, Any], name: str = "jobs.jsonl") -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return path

    def text(self, text: str, *, name: str) -> Path:
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def open(self, *lines: Mapping[str, Any], path: Path | None = None, **options: Any) -> Render:
        layer = Layer({"model": str(self.model), "frames": 1, "steps": 2})
        path = path or (self.write(*lines) if lines else self.root / "jobs.jsonl")
        return open_render(path, options.pop("out", self.out), defaults=[layer], **options)

    def many(self, count: int) -> Render:
        return self.open({"prompt": "a red circle", "seed": {"from": 0, "to": count - 1}})

    def work(
        self, render: Render, renderer: FakeRenderer | None = None, *, rules: Rules = QUICK, **options: Any
    ) -> Outcome:
        control = options.pop("control", None) or Control(render.folder.cancelled, rules.timeout)
        return work(render, rules=rules, renderer=renderer or FakeRenderer(), control=control, **options)


def events(render: Render, *names: str) -> list[Mapping[str, Any]]:
    """What manifests say, of these events."""
    rows = [
        json.loads(line)
        for path in render.folder.manifest.path.glob("*")
        for line in path.read_text("utf-8").splitlines()
    ]
    return [row for row in rows if not names or row["event"] in names]


def check_whole(render: Render, jobs: Sequence[Planned] | None = None) -> None:
    """All clips are there once, as an undisturbed run makes them; no lease, nothing half-made."""
    folder, jobs = render.folder, render.plan.jobs if jobs is None else jobs
    assert sorted(folder.finished()) == sorted(job.id for job in jobs)
    assert len(list(folder.clips.path.iterdir())) == len(jobs)
    for job in jobs:
        place = folder.clips / job.folder
        assert (place / job.job.file).read_bytes() == contents(job)
        assert json.loads((place / f"{job.job.name}.json").read_text())["job"]["id"] == job.id
        assert sorted(path.name for path in place.iterdir()) == sorted(
            [job.job.file, f"{job.job.name}.json", "poster.jpg"]
        )
    assert list(folder.leases.path.iterdir()) == []
    assert list(folder.staging.path.iterdir()) == []
