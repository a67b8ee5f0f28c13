"""How ranks find each other: by a store at the launcher's address, in minutes or not at all, and to be interrupted."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from videoaccel.common.launcher import env_number, rank_started, ranks_started
from videoaccel.common.wording import ranges

JOINING = 300.0
"""Seconds that ranks have to come together; loading the programs of many of them from a slow disk takes minutes."""

TOLD_AFTER, TOLD_EVERY = 5.0, 30.0
"""Seconds after which, and between which, a rank that waits for others says so."""

POLL = 0.1


def address() -> tuple[str, int]:
    """Where the ranks meet.

    Raises:
        ValueError: The launcher does not say, or says no port.
    """
    host, port = os.environ.get("MASTER_ADDR", "").strip(), env_number("MASTER_PORT", 0)
    if not host or not 0 < port < 2**16:
        raise ValueError(
            f"WORLD_SIZE says that this is one of {ranks_started()} ranks, and MASTER_ADDR ({host or 'not set'}) and "
            f"MASTER_PORT ({port or 'not set'}) not where they meet; unset it, or start ranks by --gpus or torchrun"
        )
    return host, port


def meet(*, limit: float = JOINING) -> Store:
    """Wait until all ranks are there.

    Waiting is done in Python, so that Ctrl-C and SIGTERM end it.

    Args:
        limit: Seconds.

    Returns:
        A store that all share, empty but for this meeting: a launcher that starts ranks again, as torchrun's
        ``--max-restarts`` does, keeps its own, in which the addresses of those that are gone still stand.

    Raises:
        ValueError: The environment makes no sense.
        OSError: Some did not come.
        RuntimeError: The port is taken.
    """
    (host, port), rank, ranks, end = address(), rank_started(), ranks_started(), time.monotonic() + limit
    held_elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    waited = _Waiting(rank, f"{host}:{port}", end)
    if rank or held_elsewhere:
        waited.until(lambda: [] if _open(host, port) else [0], what="to open the store")
    store = TCPStore(
        host, port, ranks, is_master=not (rank or held_elsewhere), wait_for_workers=False, multi_tenant=True,
        timeout=timedelta(seconds=limit),
    )  # fmt: skip
    run = PrefixStore(f"videoaccel/run/{env_number('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    run.set(f"here/{rank}", "1")
    waited.until(lambda: [other for other in range(ranks) if not run.check([f"here/{other}"])])
    return run


class _Waiting:
    """Waits for ranks, and says for which."""

    def __init__(self, rank: int, place: str, end: float) -> None:
        self.rank, self.place, self.end = rank, place, end
        self.begun = time.monotonic()
        self.next = self.begun + TOLD_AFTER

    def until(self, missing: Callable[[], list[int]], *, what: str = "to come") -> None:
        while lacking := missing():
            now = time.monotonic()
            some = f"{'rank' if len(lacking) == 1 else 'ranks'} {ranges(lacking)}"
            if now > self.end:
                raise OSError(
                    f"{some} did not come to {self.place} (MASTER_ADDR, MASTER_PORT) in {now - self.begun:.0f} s; "
                    f"a lone process needs WORLD_SIZE to be unset"
                )
            if now > self.next:
                self.next = now + TOLD_EVERY
                text = f"rank {self.rank} has waited {now - self.begun:.0f} s for {some} {what} at {self.place}"
                print(f"videoaccel: {text} (WORLD_SIZE, MASTER_ADDR, MASTER_PORT)", file=sys.stderr, flush=True)
            time.sleep(POLL)


def _open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2.0):
        return True
    return False
