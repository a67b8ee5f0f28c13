"""VBench's prompts as jobs, and their clips in a flat folder, as its scripts expect them."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

from videoaccel.jobs.resolve import suite_prompts
from videoaccel.rendering.folder import RenderFolder
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
    finished, into = folder.finished(), folder.root / FOLDER
    into.mkdir(exist_ok=True)
    count = 0
    for job in plan.jobs:
        if job.id not in finished:
            continue
        index = sorted(seeds[job.job.prompt]).index(job.job.settings.seed)
        _link(finished[job.id] / job.job.file, into / f"{job.job.prompt}-{index}.mp4")
        count += 1
    return count


def _link(clip: Path, name: Path) -> None:
    """Several workers may do so at once."""
    if name.exists() and os.path.samefile(clip, name):
        return
    part = name.with_name(f".{os.getpid()}.{abs(hash(name.name))}.part")
    try:
        os.link(clip, part)
    except OSError:
        shutil.copy2(clip, part)
    os.replace(part, name)
