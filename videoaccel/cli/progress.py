"""How far a run is: a bar with stage names and time left on a terminal, plain lines otherwise, nothing when quiet."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

from videoaccel.cli.flags import spelled
from videoaccel.cli.ranks import rank
from videoaccel.cli.terminal import PlainConsole
from videoaccel.common.user_warning import Told

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "text": "encode text",
        "load": "load model",
        "check": "hash files",
        "references": "encode references",
        "prepare": "prepare text",
        "compile": "compile",
        "denoise": "denoise",
        "measure": "measure",
        "train": "train",
        "decode": "decode and write",
        "write": "decode and write",
        "quality": "measure quality",
        "timing": "measure time",
        "evaluate": "measure clips",
    }
)
"""What stages are called; decoding and writing take turns."""

_LINES = 4  # of a long stage, where no bar can be drawn


class Display(AbstractContextManager["Display"]):
    """Shows progress on stderr; is itself a :data:`videoaccel.common.stages.Listener`.

    Args:
        quiet: Show nothing but what `note` is told.
        console: Where to; stderr unless given.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or PlainConsole(file=sys.stderr)
        self.quiet, self.prefix, self.shown = quiet, "", ""
        self.started = 0.0
        self.bar: Progress | None = None
        if not quiet and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("start", total=None)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def note(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, soft_wrap=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note of a stage's progress."""
        if stage == "clip":
            self.prefix = f"clip {done + 1} of {total}: "
            return
        name = self.prefix + NAMES.get(stage, stage)
        new, self.shown = name != self.shown, name
        if new:
            self.started = time.monotonic()
        if self.bar is not None:
            if new:
                self.bar.reset(self.task, description=name, total=total)
            self.bar.update(self.task, completed=done, total=total)
        elif not self.quiet:
            self._line(name, done, total, new=new)

    def _line(self, name: str, done: int, total: int, *, new: bool) -> None:
        if new:
            self.note(name)
        elif done and done < total and done % max(1, total // _LINES) == 0:
            left = (time.monotonic() - self.started) / done * (total - done)
            self.note(f"{name}: {done} of {total}, {left:.0f} s left")


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Display]:
    """Progress, and our own warnings as lines of it; what libraries warn their developers of is left out."""
    with Display(quiet=quiet) as display, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not rank():  # the first of several says it for all
            warnings.filterwarnings("always", category=Told)
        warnings.showwarning = lambda message, *_, **__: display.note(f"warning: {spelled(str(message))}")
        yield display


def calm_libraries(*, quiet: bool) -> None:
    """Keep diffusers and transformers from drawing bars of their own; those of downloads stay."""
    import diffusers.utils.logging
    import huggingface_hub.utils
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    if not quiet:
        huggingface_hub.utils.enable_progress_bars()  # type: ignore[attr-defined]
