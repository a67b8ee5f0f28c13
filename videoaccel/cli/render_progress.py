"""How far a render is: a table on a terminal that keeps itself up to date, a line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from videoaccel.cli.progress import NAMES, Display
from videoaccel.common.wording import counted, span

if TYPE_CHECKING:
    from videoaccel.rendering.run import Render
    from videoaccel.rendering.state import Status

_EVERY = 2.0  # seconds between looks into the folder
_SHOWN = 12  # running jobs, and failed ones


class Board(AbstractContextManager["Board"]):
    """Shows a render; `tell` hears of its events.

    Args:
        render: What is rendered.
        display: Where lines go.
        quiet: Show nothing.
        single: The work is done in this process, which tells of every step.
    """

    def __init__(self, render: Render, display: Display, *, quiet: bool, single: bool) -> None:
        self.folder, self.display, self.quiet, self.single = render.folder, display, quiet, single
        finished = render.folder.finished() if render.folder.is_one() else {}
        self.total = len(render.plan.jobs)
        self.done = sum(job.id in finished for job in render.plan.jobs)
        self.before, self.began = self.done, time.monotonic()
        self.step: Mapping[str, Any] = {}
        self.stage = ""
        self.live: Live | None = None
        self._looked = float("-inf")
        self._status: Status | None = None
        if not quiet and display.console.is_terminal:
            self.live = Live(get_renderable=self._table, console=display.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self.display.bar is not None:
            self.display.bar.stop()
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def tell(self, event: str, about: Mapping[str, Any]) -> None:
        """Hear of an event, see `videoaccel.rendering.worker.Tell`."""
        if event == "step":
            self._step(about)
            return
        self.done += event in ("done", "there")
        if self.quiet and event not in ("gave_up", "paused"):
            return
        if (text := self._line(event, about)) is not None:
            self.display.note(plain(text))

    def _step(self, about: Mapping[str, Any]) -> None:
        self.step = about
        name = NAMES.get(str(about["stage"]), str(about["stage"]))
        if "job" not in about and name != self.stage and self.live is None and not self.quiet:
            self.display.note(name)
        self.stage = name

    def _line(self, event: str, about: Mapping[str, Any]) -> str | None:
        name = about.get("name")
        lines = {
            "done": lambda: f"done {name} ({about['seconds']:.1f} s): {self.progress()}",
            "failed": lambda: f"failed {name}, try {about['number']}: {about['error']}",
            "gave_up": lambda: f"given up: {name}: {about['error']}",
            "memory": lambda: f"out of memory with {name}; from now on {about['step']}",
            "paused": lambda: f"paused: {about['why']}; goes on when there is room",
            "resumed": lambda: f"there is room again, after {about['seconds']:.0f} s",
            "taken": lambda: f"took {name} from {about['dead'] or 'a worker without a name'}, which is gone",
            "cancelled": lambda: f"cancelled {name}",
            "released": lambda: f"gave {name} back",
            "lost": lambda: f"lost {name} to another worker, having stood still for long",
        }
        return lines[event]() if event in lines else None

    def progress(self) -> str:
        """Clips, clips an hour, time left."""
        text = f"{self.done} of {self.total}"
        now, made = time.monotonic() - self.began, self.done - self.before
        if made and now > 0 and self.done < self.total:
            rate = made / now
            text += f", {3600 * rate:.0f} clips/h, {clock((self.total - self.done) / rate)} left"
        return text

    def _table(self) -> Group:
        from videoaccel.rendering.state import read_status

        if time.monotonic() - self._looked > _EVERY and self.folder.is_one():
            began = time.monotonic()
            self._status = read_status(self.folder)
            # A large folder is looked at less often.
            self._looked = time.monotonic() + 20 * (time.monotonic() - began)
        now = self.step if self.single else {}
        return Group(*([status_table(self._status, step=now)] if self._status else []), Text(self.progress()))


def status_table(status: Status, *, step: Mapping[str, Any] | None = None) -> Table | Text:
    """Counts, and what is running and failed.

    Args:
        status: Where the render stands.
        step: The newest step of the job of this process.
    """
    counts = {state: status.count(state) for state in ("done", "running", "waiting", "failed", "cancelled")}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state in ("done", "running"))
    if status.per_hour is not None:
        title += f"; {status.per_hour:.0f} clips/h"
    if counts["waiting"] + counts["running"] and status.seconds_left is not None:
        title += f", {clock(status.seconds_left)} left"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("job", "name", "state", "what", "worker"):
        table.add_column(name, overflow="fold" if name == "what" else "ellipsis", no_wrap=name != "what")
    running = [job for job in status.jobs if job.state == "running"]
    for job in running[:_SHOWN]:
        said = status.workers.get(job.worker or "", {})
        said = step if step and step.get("job") == job.id else said
        table.add_row(job.id, Text(job.name), "running", _stage(said) if said.get("job") == job.id else "", job.worker)
    failed = [job for job in status.jobs if job.state == "failed" or (job.error and job.state == "waiting")]
    for job in failed[:_SHOWN]:
        table.add_row(job.id, Text(job.name), f"{job.state}, try {job.tries}", Text(plain(job.error or "")), "")
    for said in status.workers.values():
        if "job" not in said and said.get("stage"):
            table.add_row("", "", "", _stage(said), "")
    return table if table.row_count else Text(title)


def jobs_table(status: Status) -> Table:
    """Every job, with what it makes."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "name", "state", "tries", "prompt"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for job in status.jobs:
        table.add_row(job.id, Text(job.name), job.state, str(job.tries or ""), Text(job.prompt))
    return table


def passed_over(status: Status) -> str:
    """What in the folder is no render's, or damaged."""
    what = counted(status.passed_over, "name or row")
    return f"not understood in the folder, and passed over: {what}, the first in {status.first_passed!r}"


def plain(message: str) -> str:
    """A message for people who wrote settings into a file, where they have no dashes.

    >>> plain("too short for an `edit` of 17")
    'too short for an edit of 17'
    """
    return message.replace("`", "")


def clock(seconds: float) -> str:
    """A time that is left: no tenths of seconds, and never none.

    >>> clock(0.2), clock(40), clock(4000)
    ('1 s', '40 s', '1 h 6 min')
    """
    return f"{max(1, round(seconds))} s" if seconds < 60 else span(seconds)


def _stage(said: Mapping[str, Any]) -> str:
    name = NAMES.get(str(said.get("stage")), str(said.get("stage", "")))
    total = int(said.get("total", 1))
    return name if total <= 1 else f"{name}, {said.get('done')} of {total}"
