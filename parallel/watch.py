"""Ranks tell each other that they live and where they are, so that who waits for a lost one knows for whom.

Every rank has a thread that writes its whereabouts into the store that all ranks share, and reads those of the others.
It sees a process that has died, one that has failed, and one that does not come to where the others wait.
"""

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]

from videoaccel.common.launcher import LAUNCHER
from videoaccel.parallel.comm import Whereabouts

PERIOD = 0.5
"""Seconds between two signs of life."""

DEAD_AFTER = 10.0
"""Seconds without one after which a rank counts as gone."""

RUNNING, DONE, FAILED, GONE = "running", "done", "failed", "gone"


@dataclass
class Peer:
    """What is known of another rank.

    Attributes:
        heard: When it gave its last sign of life, ``time.monotonic``.
        beat: Number of that sign.
        told: What it said: state, step, site, calls, waiting.
    """

    heard: float
    beat: int = -1
    told: dict[str, Any] | None = None


class Watch:
    """Signs of life of this rank, and what is known of the others.

    Args:
        store: Of all ranks; a connection of its own, for it is used by a thread.
        rank: This one.
        ranks: How many.
        where: Where this one is.
        patience: Seconds that ranks wait for each other in a step.
    """

    def __init__(self, store: Store, *, rank: int, ranks: int, where: Whereabouts, patience: float) -> None:
        self.store, self.rank, self.where, self.patience = store, rank, where, patience
        now = time.monotonic()
        self.peers = {other: Peer(now) for other in range(ranks) if other != rank}
        self.state, self.reason, self.beat = RUNNING, "", 0
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._tell()
        self._thread = threading.Thread(target=self._work, name="videoaccel-watch", daemon=True)
        self._thread.start()

    def close(self, *, reason: str = "") -> None:
        """Say that this rank is done, or why it failed, and stop."""
        self.state, self.reason = (FAILED, reason) if reason else (DONE, "")
        self._end.set()
        self._thread.join(2 * PERIOD)
        with contextlib.suppress(RuntimeError):
            self._tell()

    def explain(self) -> str:
        """Why a collective has failed: waits until it is clear who is missing.

        Blocks for at most the time after which a silent rank counts as gone, and a little more.
        """
        end = time.monotonic() + DEAD_AFTER + 4 * PERIOD
        while time.monotonic() < end:
            if found := self.lost() or self.late():
                return found
            time.sleep(PERIOD)
        return "a rank cannot be reached any more, though all give signs of life: look at the network between them"

    def lost(self) -> str:
        """Who has died or failed; empty if nobody has."""
        now = time.monotonic()
        for rank, peer in sorted(self.peers.items()):
            told = peer.told or {}
            if told.get("state") in (FAILED, GONE):
                return f"rank {rank} {told['reason']}{_place(told)}"
        for rank, peer in sorted(self.peers.items()):
            if (peer.told or {}).get("state") != DONE and now - peer.heard > DEAD_AFTER:
                return f"rank {rank} is gone: no sign of life for {now - peer.heard:.0f} s{_place(peer.told)}"
        return ""

    def late(self) -> str:
        """Who does not come to where this rank waits; empty if it is not waiting, or has not waited long."""
        since = self.where.since
        if since is None or time.monotonic() - since < 0.9 * self.patience:
            return ""
        for rank, peer in sorted(self.peers.items()):
            told = peer.told
            if told and told["state"] == RUNNING and not told["waiting"]:
                return f"rank {rank} does not come: waited {time.monotonic() - since:.0f} s for it{_place(told)}"
        return ""

    def heard_of(self, reason: str, *, wait: float = 5.0) -> bool:
        """Whether rank 0 failed for this reason, or this is what it failed for: then it has been said.

        Args:
            reason: Why this rank failed.
            wait: Seconds that rank 0 has to come to the same.
        """
        end = time.monotonic() + wait
        with contextlib.suppress(RuntimeError):  # the store may be gone with whoever held it
            while time.monotonic() < end:
                told = json.loads(self.store.get("beat/0")) if self.store.check(["beat/0"]) else {}
                if told.get("state") in (FAILED, GONE, DONE):
                    return told["state"] == FAILED and told["reason"] in reason
                time.sleep(PERIOD / 5)
        return False

    def _work(self) -> None:
        while not self._end.wait(PERIOD):
            try:
                self._require_launcher()
                self._tell()
                self._hear()
            except RuntimeError:  # whoever held the store is gone, and with it the run
                self._require_launcher()
                if not self._end.wait(self.patience):
                    self._give_up("the process that holds the ranks' store is gone")
                return
            # Where a collective raises, the rank has ended by itself long before.
            overdue = self.where.since is not None and time.monotonic() - self.where.since > self.patience + 20
            if overdue and (found := self.lost() or self.late()):
                self._give_up(found)

    def _require_launcher(self) -> None:
        """End where the process that started this one was killed: nobody would end it otherwise."""
        launcher = os.environ.get(LAUNCHER)
        if launcher is not None and os.getppid() != int(launcher):
            self._give_up("the process that started the ranks is gone")

    def _give_up(self, reason: str) -> None:
        place = f"(this rank: step {self.where.step}, {self.where.site})"
        sys.stderr.write(f"videoaccel: rank {self.rank}: {reason} {place}\n")
        sys.stderr.flush()
        os._exit(1)

    def _tell(self) -> None:
        where = self.where
        with self._lock:
            self.beat += 1
            told = {
                "state": self.state,
                "reason": self.reason,
                "beat": self.beat,
                "step": where.step,
                "site": str(where.site),
                "waiting": where.since is not None,
            }
            self.store.set(f"beat/{self.rank}", json.dumps(told))

    def _hear(self) -> None:
        for rank, peer in self.peers.items():
            if not self.store.check([f"beat/{rank}"]):
                continue
            told = json.loads(self.store.get(f"beat/{rank}"))
            if told["beat"] != peer.beat:
                peer.heard, peer.beat, peer.told = time.monotonic(), told["beat"], told


def mark_gone(store: Store, rank: int, reason: str) -> None:
    """Tell the others of a process that can no longer speak for itself."""
    told = {"state": GONE, "reason": reason, "beat": -2, "step": None, "site": "", "waiting": False}
    with contextlib.suppress(RuntimeError):
        if store.check([f"beat/{rank}"]):
            last = json.loads(store.get(f"beat/{rank}"))
            if last["state"] in (FAILED, DONE):
                return
            told |= {"step": last["step"], "site": last["site"]}
        store.set(f"beat/{rank}", json.dumps(told))


def _place(told: dict[str, Any] | None) -> str:
    if not told or told["step"] is None or told["step"] < 0:
        return ""
    return f"; it was last seen at step {told['step']}, {told['site']}"
