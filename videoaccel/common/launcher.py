"""What a launcher (torchrun, Slurm, ``--gpus``) has written into the environment of one of its processes."""

from __future__ import annotations

import os

LAUNCHER = "VIDEOACCEL_LAUNCHER"
"""Environment variable: number of the process that started the ranks, where that is one of ours."""


def env_number(name: str, default: int) -> int:
    """A whole number of at least 0 from the environment.

    Raises:
        ValueError: It is set to something else, as launchers leave it that were started by halves.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.strip().isdecimal():
        raise ValueError(
            f"the environment variable {name} is {text!r}, not a number; unset it, or start ranks by --gpus or torchrun"
        )
    return int(text)


def ranks_started() -> int:
    """Processes that this one is one of; 1 without a launcher.

    Raises:
        ValueError: The environment makes no sense.
    """
    ranks = env_number("WORLD_SIZE", 1)
    if ranks < 1:
        raise ValueError(f"the environment variable WORLD_SIZE is {ranks}; unset it, or start at least 1 rank")
    return ranks


def rank_started() -> int:
    """This process's number among them.

    Raises:
        ValueError: The environment makes no sense.
    """
    rank, ranks = env_number("RANK", 0), ranks_started()
    if rank >= ranks:
        raise ValueError(
            f"the environment variable RANK is {rank}, of {ranks} by WORLD_SIZE; unset both, or start ranks by --gpus "
            f"or torchrun"
        )
    return rank


def first_started() -> bool:
    """Whether this process speaks for all, before it is known whether the environment makes sense."""
    return os.environ.get("RANK", "0").strip() in ("", "0")
