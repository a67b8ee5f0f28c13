"""A render from a job file to an outcome, as the command line and Python call it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from videoaccel.common.home import expand
from videoaccel.common.names import safe_name
from videoaccel.common.user_warning import warn_user
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.mesh import Mesh
from videoaccel.rendering.control import ALL, Control
from videoaccel.rendering.folder import GALLERY, RenderFolder, clip_files
from videoaccel.rendering.gallery import Gallery
from videoaccel.rendering.hashes import Hashes
from videoaccel.rendering.heartbeat import new_worker
from videoaccel.rendering.inside import Inside, is_identity
from videoaccel.rendering.job import Job, make_jobs
from videoaccel.rendering.jobs_file import read_jobs
from videoaccel.rendering.leases import Leases
from videoaccel.rendering.outcome import Outcome, Rules, take_stock
from videoaccel.rendering.plan import Plan, Unit, make_plan
from videoaccel.rendering.ranks_renderer import RanksRenderer
from videoaccel.rendering.renderer import LocalRenderer, Renderer
from videoaccel.rendering.said import mapping
from videoaccel.rendering.suite import check_suite, read_suite
from videoaccel.rendering.text_ahead import FolderTexts, TextAhead
from videoaccel.rendering.twin_psnr import measure
from videoaccel.rendering.worker import Tell, Worker
from videoaccel.settings.layers import Layer

_BLOCK = 1 << 20  # bytes
_LOOK, _SHARE = 10.0, 0.01  # seconds, and share of the run, in which clips are compared with exact twins at its end


@dataclass(frozen=True)
class Render:
    """A job file that was checked, and the folder for its clips.

    Attributes:
        jobs: The file.
        folder: Where clips go.
        plan: What is asked for.
    """

    jobs: Path
    folder: RenderFolder
    plan: Plan


def open_render(
    jobs: str | Path,
    out: str | Path,
    *,
    defaults: Sequence[Layer] = (),
    overrides: Sequence[Layer] = (),
    batching: int = 1,
    suite: bool = False,
    read: Sequence[Job] | None = None,
) -> Render:
    """Read and check a job file; writes nothing.

    Args:
        jobs: The file.
        out: Folder for the clips; new, empty, or that of a render, which is gone on with.
        defaults: Settings that lines may set otherwise.
        overrides: Settings that they may not.
        batching: Jobs with equal shapes that are made at once, at most.
        suite: The file is VBench's list of prompts, see `videoaccel.rendering.suite`.
        read: The file's jobs, if they have been read.

    Raises:
        BadJobsError: Lines are wrong; says all of them.
        ValueError: The file is none, the folder holds something else, or ``batching`` is below 1.
        OSError: The file cannot be read, or the folder cannot be written.
    """
    if batching < 1:
        raise ValueError(f"at least 1 job is made at once, got {batching}")
    path, folder = expand(jobs), RenderFolder(expand(out))
    folder.check()
    hashes = Hashes(folder.work)
    made, problems = list(read or []), list[str]()
    if read is None:
        file = read_suite(path) if suite else read_jobs(path)
        made, problems = make_jobs(file, defaults=defaults, overrides=overrides)
    plan = make_plan(made, path=path, hashes=hashes, batching=batching, finished=folder.finished(), known=problems)
    if suite:
        check_suite(plan)
    if folder.is_one():
        hashes.save()
    return Render(path, folder, plan)


def render(
    jobs: str | Path,
    out: str | Path,
    *,
    batching: int = 1,
    suite: bool = False,
    rules: Rules | None = None,
    device: str | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Render a job file as one worker, until nothing is left to do; a folder of a render is gone on with.

    Args:
        jobs: The job file.
        out: Folder for the clips.
        batching: As in `open_render`.
        suite: Likewise.
        rules: How patient it is.
        device: In place of the jobs' own.
        tell: Told of every event, as in `work`.

    Raises:
        BadJobsError: Lines are wrong; says all of them, and nothing is rendered.
        ValueError: The file is none, the folder holds something else, or ``batching`` is below 1.
        OSError: The file cannot be read, or the folder cannot be written.
        KeyboardInterrupt: Ctrl-C; the job at hand was given back.
    """
    opened = open_render(jobs, out, batching=batching, suite=suite)
    return work(opened, rules=rules, device=device, tell=tell)


def work(
    render: Render,
    *,
    rules: Rules | None = None,
    renderer: Renderer | None = None,
    device: str | None = None,
    control: Control | None = None,
    name: str | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Be one worker of a render, until nothing is left to do. Any number of them may work in one folder.

    Args:
        render: From `open_render`.
        rules: How patient it is.
        renderer: Makes clips; one on this machine's device unless given.
        device: For that renderer, in place of the jobs' own.
        control: Asked at every step whether to go on.
        name: Of the worker, which no other may have.
        tell: Told of every event, and of every step as ``step``.

    Raises:
        ValueError: The folder holds something else.
        OSError: It cannot be written.
        KeyboardInterrupt: Ctrl-C; the job at hand was given back.
    """
    rules, folder, began = rules or Rules(), render.folder, time.monotonic()
    folder.prepare()
    keep_plan(render)
    control = control or Control(folder.cancelled, rules.timeout)
    renderer = renderer or LocalRenderer(FolderTexts(folder.text), device=device)
    local = renderer.local if isinstance(renderer, RanksRenderer) else renderer

    gallery = Gallery(folder)

    def heard(event: str, about: Mapping[str, Any]) -> None:
        if tell is not None:
            tell(event, about)
        if event == "done":
            _write_gallery(worker, gallery)

    worker = Worker(
        render.plan,
        folder,
        renderer,
        name=name or new_worker(),
        rules=rules,
        control=control,
        tell=heard,
        before=_texts_ahead(local, folder, control) if isinstance(local, LocalRenderer) else None,
    )
    compared = 0
    try:
        outcome = worker.run()
        if not outcome.interrupted:
            with suppress(OSError):
                compared = measure(folder, seconds=_LOOK + _SHARE * (time.monotonic() - began))
    finally:
        if worker.outcome.made or compared or not folder.top.exists(GALLERY):
            with suppress(OSError):
                gallery.update(now=True)
    if isinstance(local, LocalRenderer) and not (outcome.left or outcome.interrupted):
        folder.forget_texts()  # nobody needs them any more
    return outcome


def _texts_ahead(
    local: LocalRenderer, folder: RenderFolder, control: Control
) -> Callable[[Worker, Sequence[Unit]], None]:
    """Has a worker encode the texts of units before it makes their clips."""

    def encode(worker: Worker, units: Sequence[Unit]) -> None:
        def listen(stage: str, done: int, total: int) -> None:
            control.check()
            worker.heart.say({"stage": stage, "done": done, "total": total})
            worker.tell("step", {"stage": stage, "done": done, "total": total})

        made = partial(_all_made, folder, units)
        TextAhead(local, worker.leases, worker.observer, control, worker.room.patiently, listen, made).run(units)

    return encode


def _all_made(folder: RenderFolder, units: Sequence[Unit]) -> bool:
    made = folder.finished()
    return all(job.id in made for unit in units for job in unit.jobs)


def _write_gallery(worker: Worker, gallery: Gallery) -> None:
    """A page that cannot be written, since something else has its name, is no fault of the clip's."""
    try:
        worker.room.patiently(gallery.update)
    except OSError as error:
        warn_user(f"the gallery is not written: {' '.join(str(error).split())}")


def work_with_ranks(
    render: Render,
    mesh: Mesh,
    *,
    rules: Rules | None = None,
    control: Control | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Be one rank of a render: the ranks that share a clip are one worker. All ranks call this with the same render.

    Args:
        render: From `open_render`, with settings that have these ranks.
        mesh: The ranks.
        rules: How patient the workers are.
        control: Asked at every step whether to go on, on the first rank of each group.
        tell: Told of every event of this rank's worker, likewise.

    Returns:
        How the render stands once all workers have ended; the same on all ranks.

    Raises:
        RankError: A rank is gone, or out of step. What was at work is given back, or taken over by a later run.
    """
    mesh.require_alike({"jobs": [unit.id for unit in render.plan.units]})
    local = LocalRenderer(FolderTexts(render.folder.text), mesh=mesh)
    renderer = RanksRenderer(local, mesh, render.plan)
    own: Outcome | None = None
    if mesh.leads:
        try:
            own = work(render, rules=rules, renderer=renderer, control=control, tell=tell)
        except RankError:
            raise
        except BaseException:
            renderer.dismiss()
            raise
        renderer.dismiss()
    else:
        renderer.follow()
    ended = [outcome for outcome in mesh.everyone.each(own) if outcome is not None]
    last = mesh.everyone.same(count_outcome(render, rules or Rules()) if mesh.first else None)
    last.made, last.seconds = sum(one.made for one in ended), max(one.seconds for one in ended)
    last.interrupted = any(one.interrupted for one in ended)
    return cast(Outcome, last)


def keep_plan(render: Render) -> None:
    """Leave word of what is asked for, so that `videoaccel.rendering.state` can tell what is still to come."""
    data: Mapping[str, Any] = {
        "file": str(render.jobs.absolute()),
        "jobs": [
            {"id": job.id, "name": job.job.name, "unit": unit.id, "line": job.job.line, "prompt": job.job.prompt[:200]}
            for unit in render.plan.units
            for job in unit.jobs
        ],
    }
    mark = hashlib.sha256(str(render.jobs.absolute()).encode()).hexdigest()[:8]
    text = json.dumps(data, ensure_ascii=False).encode(errors="replace")
    render.folder.plans.write(f"{safe_name(render.jobs.name)}-{mark}.json", text)


def count_outcome(render: Render, rules: Rules) -> Outcome:
    """How a render stands, for one who has not worked on it."""
    return take_stock(render.plan, render.folder, rules, Control(render.folder.cancelled))


def verify_clips(folder: RenderFolder) -> Iterator[tuple[str, str]]:
    """Hash every finished clip, and remove those that are not as their sidecars say; yields these with the reason."""
    for path in folder.finished().values():
        out = mapping(folder.record(path.name).get("output"))
        name = path.name.rpartition("-")[0]
        file = next((file for file in clip_files(name) if out.get("file") in (file, f"{file}/")), None)
        why = "its sidecar cannot be read"
        if file is not None:
            why = "its bytes are not those that were written"
            with suppress(OSError):
                if _hash(folder.clips.folder(path.name), file) == out.get("sha256"):
                    continue
        folder.clips.remove(path.name)
        yield path.name, why


def _hash(place: Inside, name: str) -> str:
    """As `videoaccel.jobs.sidecar.file_hash`, of plain files alone."""
    digest = hashlib.sha256()
    if place.is_folder(name):
        frames = place.folder(name)
        for one in frames.names():
            digest.update(f"{one} {_hash(frames, one)}\n".encode())
        return digest.hexdigest()
    with place.reading(name) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def cancel(folder: RenderFolder, jobs: Sequence[str] = ()) -> None:
    """Cancel jobs by identity, or all that is at work now.

    Raises:
        ValueError: What is given is no identity.
        OSError: The folder cannot be written.
    """
    if wrong := [job for job in jobs if not is_identity(job)]:
        raise ValueError(f"{wrong[0]!r} is no identity of a job")
    folder.cancelled.make()
    for job in jobs:
        folder.cancelled.write(job, b"")
    if not jobs:
        folder.cancelled.write(f"{ALL}{new_worker()}", b"")


def retry(render: Render) -> int:
    """Let jobs of a render be tried again that were given up or cancelled; returns how many."""
    leases, looked = Leases(render.folder.leases, ""), {}
    if render.folder.is_one():
        looked = leases.look()
    count = 0
    for unit in render.plan.units:
        marks = [job.id for job in unit.jobs if render.folder.cancelled.exists(job.id)]
        tries = looked.get(unit.id)
        if tries is not None and tries.held is None:
            leases.forget(unit.id)
        for mark in marks:
            render.folder.cancelled.unlink(mark)
        count += bool(marks) or (tries is not None and tries.held is None)
    return count
