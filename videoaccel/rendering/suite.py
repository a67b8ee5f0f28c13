"""VBench's prompts as jobs, and their clips in a flat folder, as its scripts expect them."""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from pathlib import Path

from videoaccel.common.files import PART_SUFFIX
from videoaccel.jobs.samples import suite_prompts
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.jobs_file import JobsFile, Line
from videoaccel.rendering.plan import Plan

FOLDER = "vbench"
"""Where the clips are published, in a render's folder."""


def read_suite(path: Path) -> JobsFile:
    """Every prompt of a ``VBench_full_info.json`` once, in its order.

    Raises:
        ValueError: It is no such file, or a prompt cannot name a clip.
        OSError: It cannot be read.
    """
    lines = [Line(number, {"prompt": prompt}) for number, prompt in enumerate(suite_prompts(str(path)), start=1)]
    return JobsFile(lines, [], {})


def check_suite(plan: Plan) -> None:
    """Make sure that VBench can read what will be made.

    Raises:
        ValueError: A job writes no mp4.
    """
    if other := next((job.job.format for job in plan.jobs if job.job.format != "mp4"), None):
        raise ValueError(f"VBench's scripts read .mp4; jobs write {other}")


def publish(plan: Plan, folder: RenderFolder) -> int:
    """Put finished clips into ``vbench/`` as ``{prompt}-{index}.mp4``, sample k of a prompt as k.

    They are links to the clips, or copies where the file system knows none.

    Returns:
        How many are there.

    Raises:
        OSError: The folder cannot be written.
    """
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for job in plan.jobs:
        seeds[job.job.prompt].add(job.job.settings.seed)
    finished, into = folder.finished(), folder.top.folder(FOLDER)
    into.make()
    count = 0
    for job in plan.jobs:
        clip = folder.clips.folder(finished[job.id].name) if job.id in finished else None
        if clip is None or not clip.is_file(job.job.file):
            continue
        index = sorted(seeds[job.job.prompt]).index(job.job.settings.seed)
        _link(clip, job.job.file, into, f"{job.job.prompt}-{index}.mp4")
        count += 1
    return count


def _link(clip: Inside, file: str, into: Inside, name: str) -> None:
    """Several workers may do so at once."""
    if into.is_file(name) and os.path.samefile(clip / file, into / name):
        return
    part = f".{os.getpid()}.{secrets.token_hex(4)}{PART_SUFFIX}"
    try:
        clip.link(file, part, into=into)
    except OSError:
        with clip.reading(file) as source:
            into.write(part, source.read())
    into.rename(part, name)
