"""``videoaccel cancel``: stop a render, or take jobs out of it."""

from __future__ import annotations

from typing import Annotated

import typer

from videoaccel.cli.terminal import say
from videoaccel.common.home import expand
from videoaccel.common.wording import counted


def cancel(
    folder: Annotated[str, typer.Argument(help="Folder of a render.", metavar="DIR")],
    jobs: Annotated[
        list[str] | None,
        typer.Argument(help="Jobs, by identity (or its beginning) or name; none for all.", metavar="JOB"),
    ] = None,
) -> None:
    """Cancel jobs, or stop all workers of a render; clips that are finished stay.

    Workers look once a second and give back what they are at. Cancelled jobs stay so until render --retry; a render
    that was stopped goes on when it is started again.
    """
    from videoaccel.rendering.folder import RenderFolder
    from videoaccel.rendering.state import DONE, read_status

    place = RenderFolder(expand(folder))
    found = read_status(place)
    chosen = []
    for name in jobs or []:
        fitting = [job for job in found.jobs if job.name == name or job.id.startswith(name)]
        if not fitting:
            raise ValueError(f"{folder} has no job {name!r}; videoaccel status {folder} --jobs lists them")
        chosen += [job.id for job in fitting if job.state != DONE]
    if jobs and not chosen:
        say("nothing to cancel: finished already")
        return
    from videoaccel.rendering.run import cancel as cancel_jobs  # torch and all

    cancel_jobs(place, chosen)
    say(f"cancelled {counted(len(chosen), 'job')}" if jobs else f"told {counted(len(found.workers), 'worker')} to stop")
