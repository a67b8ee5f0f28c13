"""Can the methods that jobs name run at all? Found out before the first job, not at night."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from videoaccel.common.stages import Listener
from videoaccel.outside.order import OutsideOrder
from videoaccel.preview.outside import check_outside
from videoaccel.preview.preview import check_method, load
from videoaccel.rendering.jobs_file import BadJobsError
from videoaccel.rendering.plan import Planned
from videoaccel.rendering.run import Render


def check_methods(render: Render, *, listener: Listener | None = None) -> None:
    """Make a session for every group of settings that names a method; each model is loaded once.

    Args:
        render: From `videoaccel.rendering.run.open_render`. Finished jobs are not looked at.
        listener: Told of the stages ``load`` and ``plan``.

    Raises:
        BadJobsError: A method has too few steps, no prior, no routers, or a target out of reach; says all lines.
    """
    finished = render.folder.finished()
    engines: defaultdict[str, dict[str, list[Planned]]] = defaultdict(dict)
    for job in render.plan.jobs:
        if job.id not in finished and job.group.order.policy is not None:
            engines[job.group.engine].setdefault(job.group.key, []).append(job)
    problems: dict[int, str] = {}
    for groups in engines.values():
        pipe: Any = None
        for jobs in groups.values():
            order = jobs[0].group.order
            try:
                if isinstance(order, OutsideOrder):
                    pipe = check_outside(order, pipe, listener=listener)
                    continue
                pipe = pipe or load(order.settings, listener=listener)
                check_method(order, pipe, listener=listener)
            except ValueError as error:
                problems |= dict.fromkeys((job.job.line for job in jobs), " ".join(str(error).split()))
    if problems:
        raise BadJobsError(render.jobs, _told(problems))


def _told(problems: dict[int, str]) -> Sequence[str]:
    return [f"line {line}: {problems[line]}" for line in sorted(problems)]
