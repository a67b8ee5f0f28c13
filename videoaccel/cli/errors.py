"""From exceptions to one sentence on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer

from videoaccel.cli.flags import spelled
from videoaccel.common.borders import for_terminal
from videoaccel.common.launcher import LAUNCHER, first_started
from videoaccel.common.versions import UnfitVersionError

BAD_INPUT, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143

INCOMPLETE = 3
"""Part of what was asked for has no result, which is named; the rest is written."""

# A path that was asked for and cannot be had; what else the operating system refuses (a full disk) is a failure.
_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_KNOWN = (OSError, MemoryError, ArithmeticError, UnfitVersionError)

OTHERS = {
    "height": "--size HEIGHTxWIDTH",
    "width": "--size HEIGHTxWIDTH",
    "num-frames": "--frames",
    "num-inference-steps": "--steps",
    "num-sampling-steps": "--steps",
    "guidance-scale": "--guidance",
    "cfg-scale": "--guidance",
    "num-videos-per-prompt": "--samples",
    "num-images-per-prompt": "--samples",
    "aspect-ratio": "--aspect",
    "method": "--accel",
    "out": "--output",
    "prompt": "PROMPT (in quotes, no option)",
}
"""Our options by what other programs call them."""

_told: list[int] = []
"""Exit codes of the signals that this command was told to end by."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does.

    Raises:
        KeyboardInterrupt: Always. Libraries make other errors of it where it strikes them while they are imported.
    """
    _told.append(INTERRUPTED)
    raise KeyboardInterrupt


def terminate(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does, with which schedulers end jobs: everything is cleared up as after Ctrl-C.

    Raises:
        SystemExit: Always, with its exit code.
    """
    _told.append(TERMINATED)
    raise SystemExit(TERMINATED)


class SaidError(Exception):
    """Ends a command of whose failure the processes that it started have said all; its argument is the exit code."""


def exit_code(command: Callable[[], Any], *, debug: bool, resumes: bool = False) -> int:
    """Run a command that raises typer's exceptions itself; returns its exit code.

    Args:
        command: What to run; an int that it returns is the exit code.
        debug: Show tracebacks.
        resumes: Whether it goes on where it was stopped when it is started again.
    """
    try:
        result = command()
    except SaidError as said:
        result = said.args[0]
    except typer.Exit as stop:
        result = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except SystemExit:
        if TERMINATED not in _told:
            raise
        result = TERMINATED
    except Exception as error:
        if debug:
            traceback.print_exc()
        if _told:
            _say_stopped(_told[-1], resumes)
            return _told[-1]
        if _is_usage(error):
            message = error.format_message()  # type: ignore[attr-defined]
            if not message:  # no command was given: typer has shown the help
                return 0
            _say(_elsewhere(error) or f"{message.rstrip('.')}; --help lists what there is")
            return BAD_INPUT
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        bad_input = too_long or isinstance(error, (ValueError, *_PATHS))
        # One mistake, one sentence, however many ranks: before they have met, the first of each machine says it.
        if not getattr(error, "said_by_first", bad_input and os.environ.get("LOCAL_RANK", "0") != "0"):
            _say(_sentence(error, known=bad_input or isinstance(error, _KNOWN)))
        return BAD_INPUT if bad_input else FAILURE
    finally:
        _told.clear()  # of this command; a process may run another
    if result in (INTERRUPTED, TERMINATED):  # newer versions of typer turn Ctrl-C into this code themselves
        _say_stopped(result, resumes)
    return result if isinstance(result, int) else 0


def _say_stopped(code: int, resumes: bool) -> None:
    if first_started() and LAUNCHER not in os.environ:  # our own launcher says it for its ranks
        end = "stopped" if code == INTERRUPTED else "ended by SIGTERM"
        kept = "the same command goes on from what was kept" if resumes else "no half-written file was left"
        _say(f"{end}; {kept}")


def _is_usage(error: Exception) -> bool:
    # typer brings its own copy of click since 0.26, so the class itself depends on the version.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _elsewhere(error: Any) -> str | None:
    """What to say of an option that is there by another name, as diffusers or other programs call it."""
    given = getattr(error, "option_name", None)
    ours = OTHERS.get(str(given).lstrip("-").replace("_", "-"))
    if ours is None or error.ctx is None:
        return None
    names = {name for own in error.ctx.command.params for name in (*own.opts, str(own.name).upper())}
    if ours.split()[0] not in names:
        return None
    return f"there is no option {given}; it is {ours} here"


def _sentence(error: Exception, *, known: bool) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror.lower()}"  # Python's own text starts with [Errno 13]
    return text if known else f"{type(error).__name__}: {text} (--debug shows where)"


def _say(text: str) -> None:
    speaker = "videoaccel" if first_started() else f"videoaccel: rank {os.environ['RANK']}"
    sys.stderr.write(f"{speaker}: {for_terminal(spelled(text))}\n")  # in one piece, for ranks share a terminal
