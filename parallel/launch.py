"""Starting ranks on this machine: one process each, wired like torchrun's, ended together.

For several machines there is torchrun itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from videoaccel.common.launcher import LAUNCHER
from videoaccel.parallel.watch import DEAD_AFTER, RUNNING, mark_gone

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


class _Beats:
    """Which ranks give no sign of life, counted in looks: while this process stands still itself, nobody is silent.

    Args:
        signs: The store that ranks write their signs into.
    """

    def __init__(self, signs: PrefixStore) -> None:
        self.signs = signs
        self.last: dict[int, tuple[bytes, int]] = {}

    def look(self, ranks: Iterable[int]) -> None:
        """Look at the signs of some ranks; one that has given none yet is not silent."""
        for rank in ranks:
            with contextlib.suppress(RuntimeError):
                if self.signs.check([f"beat/{rank}"]):
                    beat, looks = self.signs.get(f"beat/{rank}"), 0
                    if rank in self.last and self.last[rank][0] == beat and json.loads(beat)["state"] == RUNNING:
                        looks = self.last[rank][1] + 1
                    self.last[rank] = beat, looks

    def silent(self, rank: int) -> bool:
        """Whether it has given none for so long that it counts as gone."""
        return rank in self.last and self.last[rank][1] > DEAD_AFTER / POLL


def _stands_still(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process was stopped (SIGSTOP); False where the system does not say."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _first_failure(processes: Sequence["subprocess.Popen[bytes]"], signs: PrefixStore) -> int:
    code, until = 0, float("inf")
    running = dict(enumerate(processes))
    beats = _Beats(signs)
    while running and time.monotonic() < until:
        beats.look(running)
        for rank, process in list(running.items()):
            reason = ""
            if beats.silent(rank) and (code or _stands_still(process)):
                reason = f"stood still: no sign of life for {DEAD_AFTER:.0f} s"
                mark_gone(signs, rank, reason)
                process.kill()  # as its connections close, those that wait for it are told at once
                process.wait()
            if (ended := process.poll()) is None:
                continue
            del running[rank]
            if not ended:
                continue
            if ended < 0:
                reason = reason or f"was killed ({signal.Signals(-ended).name})"
                print(f"videoaccel: rank {rank} {reason}", file=sys.stderr)
                mark_gone(signs, rank, reason)
            else:
                mark_gone(signs, rank, f"ended with exit code {ended}")
            code = code or (ended if ended > 0 else 1)
            until = min(until, time.monotonic() + GRACE)
        time.sleep(POLL)
    return code
