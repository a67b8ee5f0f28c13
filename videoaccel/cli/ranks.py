"""``--gpus N``: the command again, as N processes; and who of them speaks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from videoaccel.common.launcher import rank_started, ranks_started
from videoaccel.settings.generate import GenerateSettings

if TYPE_CHECKING:
    from videoaccel.jobs.ranks import Order

_FEW_RANKS = 8
"""So many may share a single core, to try what ranks do."""


def is_rank() -> bool:
    """Whether a launcher has started this process as one of several."""
    return ranks_started() > 1


def rank() -> int:
    """Its number among them."""
    return rank_started()


def must_start(settings: GenerateSettings) -> bool:
    """Whether ranks are asked for that nobody has started yet."""
    return (settings.gpus or 1) > 1 and not is_rank()


def start(
    command: str,
    settings: GenerateSettings,
    *,
    options: Mapping[str, str | bool | None],
    check: Callable[[Any], None] = lambda order: None,
    resolved: Callable[[GenerateSettings], Order] | None = None,
) -> int:
    """Run a command of this program as so many ranks; returns the exit code.

    Everything is checked here first, so that what is wrong is said once.

    Args:
        command: Its name.
        settings: Put together from all places; ranks get them as a file, since only one process can read stdin.
        options: Further ones by flag: a text, True for a switch, None or False for none.
        check: What else shall be right before ranks are started; raises if it is not.
        resolved: Makes the order that is checked; None for those of our own models.

    Raises:
        ValueError: The settings do not fit.
    """
    from videoaccel.jobs.resolve import resolve
    from videoaccel.parallel.launch import start_ranks  # torch and all

    order = (resolved or resolve)(settings)
    check_count(order.degrees.ranks, str(order.settings.device))
    check(order)
    with tempfile.TemporaryDirectory(prefix="videoaccel-") as folder:
        file = Path(folder) / "settings.yaml"
        told = settings.model_dump(mode="json", exclude_unset=True)
        file.write_text(yaml.safe_dump(told, allow_unicode=True), encoding="utf-8")
        arguments = [sys.executable, "-m", "videoaccel", command, "--config", str(file), *_flags(options)]
        return start_ranks(arguments, ranks=order.degrees.ranks, device=str(order.settings.device))


def check_count(ranks: int, device: str) -> None:
    """Refuse more ranks than a CPU can serve: each is a process with the whole model.

    Raises:
        ValueError: There are more than its cores, and more than eight.
    """
    cores = os.cpu_count() or 1
    if device == "cpu" and ranks > max(_FEW_RANKS, cores):
        raise ValueError(
            f"{ranks} ranks were asked for, and this CPU has {cores} cores; at most {max(_FEW_RANKS, cores)} run here"
        )


def start_again(ranks: int, *, device: str, without: Sequence[str] = (), grace: float = 5.0) -> int:
    """Run this very command line as so many ranks; returns the exit code.

    Args:
        ranks: How many.
        device: What they run on.
        without: Switches that are not passed on.
        grace: Seconds to be gone in for ranks that are told to end.

    Raises:
        ValueError: There are more than a CPU can serve.
    """
    from videoaccel.parallel.launch import start_ranks

    check_count(ranks, device)
    arguments = [text for text in sys.argv[1:] if text not in without]
    return start_ranks([sys.executable, "-m", "videoaccel", *arguments], ranks=ranks, device=device, grace=grace)


def _flags(options: Mapping[str, str | bool | None]) -> Sequence[str]:
    found: list[str] = []
    for flag, value in options.items():
        if value is True:
            found.append(flag)
        elif value:
            found += [flag, str(value)]
    return found


def require_alone(command: str) -> None:
    """Refuse to run a command several times at once where one process does all of it.

    Raises:
        ValueError: It was started as several ranks.
    """
    if is_rank():
        raise ValueError(f"videoaccel {command} runs in one process; start it without torchrun")
