"""Starting ranks on this machine: one process each, wired like torchrun's, ended together.

For several machines there is torchrun itself.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from videoaccel.parallel.watch import LAUNCHER, mark_gone

GRACE = 20.0
"""Seconds that the others have to say what they miss once a rank has failed."""

POLL = 0.1


def start_ranks(command: Sequence[str], *, ranks: int, device: str = "cpu", grace: float = 5.0) -> int:
    """Run a command as so many ranks and wait for them.

    The store through which they find each other, and hear of each other's end, lives in this process: when it dies,
    they end, too.

    Args:
        command: Program and arguments, the same for all.
        ranks: How many.
        device: What they run on; CPU ranks share the machine's cores.
        grace: Seconds to be gone in, for those that are told to end.

    Returns:
        0 if all ended well, else the exit code of the first that did not (1 for one that was killed).
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=10))
    signs = PrefixStore("videoaccel/0", store)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // ranks)))
    processes = [
        subprocess.Popen(list(command), env=_environment(rank, ranks, store.port, threads if device == "cpu" else None))
        for rank in range(ranks)
    ]
    try:
        return _first_failure(processes, signs)
    finally:
        end_processes(processes, grace=grace)


def end_processes(processes: Sequence["subprocess.Popen[bytes]"], *, grace: float = 5.0) -> None:
    """Ask those that still run to end, and end them if they do not."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, end - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def _environment(rank: int, ranks: int, port: int, threads: str | None) -> dict[str, str]:
    wired = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # this process holds the store, as torchrun's agent does
        "TORCHELASTIC_RESTART_COUNT": 0,
        LAUNCHER: os.getpid(),
        "PYTHONSAFEPATH": 1,  # a folder that happens to be called videoaccel is not this package
    }
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # c10d's own words on ranks that are gone; ours say who and where
    found = quiet | os.environ | {name: str(value) for name, value in wired.items()}
    return found if threads is None else found | {"OMP_NUM_THREADS": threads}


def _first_failure(processes: Sequence["subprocess.Popen[bytes]"], signs: PrefixStore) -> int:
    code, until = 0, float("inf")
    running = dict(enumerate(processes))
    while running and time.monotonic() < until:
        for rank, process in list(running.items()):
            if (ended := process.poll()) is None:
                continue
            del running[rank]
            if not ended:
                continue
            if ended < 0:
                reason = f"was killed ({signal.Signals(-ended).name})"
                print(f"videoaccel: rank {rank} {reason}", file=sys.stderr)
                mark_gone(signs, rank, reason)
            else:
                mark_gone(signs, rank, f"ended with exit code {ended}")
            code = code or (ended if ended > 0 else 1)
            until = min(until, time.monotonic() + GRACE)
        time.sleep(POLL)
    return code
