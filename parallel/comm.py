"""The collectives that layouts need, in one place, with a ledger of the bytes that they send.

Shape legend: N ranks of the group.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Ledger:
    """Bytes sent by this rank and number of calls, by collective."""

    sent: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, nbytes: int) -> None:
        """Book one call."""
        self.sent[name] = self.sent.get(name, 0) + nbytes
        self.calls[name] = self.calls.get(name, 0) + 1


_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Renamed in torch 2.13."""


class RankError(ConnectionError):
    """Ranks have lost each other, or do not do the same; says which, and where."""


@dataclass
class Whereabouts:
    """Where a rank is, for those who wait for it.

    Attributes:
        step: The present step; -1 before the first.
        site: The module that it is at.
        calls: Collectives so far.
        since: When it began to wait in a collective, ``time.monotonic``; None if it waits in none.
        explain: Says why a collective may have failed.
        seen: What is said of where it is, in place of this one's own step and site.
    """

    step: int = -1
    site: object = "start"
    calls: int = 0
    since: float | None = None
    explain: Callable[[], str] | None = None
    seen: "Whereabouts | None" = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a collective.

        Raises:
            RankError: It failed.
        """
        self.calls += 1
        self.since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            text = " ".join(str(error).split())
            reason = text if self.explain is None else self.explain()
            at = self.seen or self
            raise RankError(f"{reason} (this rank: step {at.step}, {at.site})") from error
        self.since = None  # stays set where the collective fails: that is where it waited


class Comm:
    """Collectives over one process group; a group of one rank sends nothing.

    Args:
        group: The process group; None is the default one, or this process alone where there is none.
        where: Told when this rank waits.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, where: Whereabouts | None = None) -> None:
        known = dist.is_initialized()
        self.group = group
        self.size = dist.get_world_size(group) if known else 1
        self.rank = dist.get_rank(group) if known else 0
        self.ledger, self.where = Ledger(), where or Whereabouts()

    @classmethod
    def lone(cls) -> "Comm":
        """This process alone, whatever groups there are."""
        comm = cls.__new__(cls)
        comm.group, comm.size, comm.rank = None, 1, 0
        comm.ledger, comm.where = Ledger(), Whereabouts()
        return comm

    def all_to_all(self, x: Tensor) -> Tensor:
        """Send slice n of x [N, ...] to rank n; slice n of the result comes from rank n."""
        if self.size == 1:
            return x
        x = x.contiguous()
        out = torch.empty_like(x)
        with self.where.waiting():
            dist.all_to_all_single(out, x, group=self.group)
        self.ledger.add("all_to_all", x.nbytes * (self.size - 1) // self.size)
        return out

    def all_gather(self, x: Tensor, *, name: str = "all_gather") -> Tensor:
        """The x of all ranks, [N, ...]; booked under ``name``."""
        if self.size == 1:
            return x[None]
        x = x.contiguous()
        out = x.new_empty((self.size, *x.shape))
        with self.where.waiting():
            _gather(out.flatten(0, 1), x, group=self.group)
        self.ledger.add(name, x.nbytes * (self.size - 1))
        return out

    def total(self, x: Tensor) -> Tensor:
        """The sum over all ranks, added up in the order of ranks: the same bits everywhere."""
        return self.all_gather(x.reshape(-1), name="agree").sum(0).view(x.shape) if self.size > 1 else x

    def broadcast(self, x: Tensor, *, source: int) -> Tensor:
        """The x of rank ``source`` of this group; elsewhere x is overwritten."""
        if self.size == 1:
            return x
        x = x.contiguous()
        with self.where.waiting():
            dist.broadcast(x, group=self.group, group_src=source)
        if self.rank == source:
            self.ledger.add("broadcast", x.nbytes)
        return x

    def same(self, value: Any) -> Any:
        """Rank 0's copy of a small Python value."""
        if self.size == 1:
            return value
        held = [value]
        with self.where.waiting():
            dist.broadcast_object_list(held, group=self.group, group_src=0)
        return held[0]

    def each(self, value: Any) -> list[Any]:
        """Every rank's copy of a small Python value, by rank."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        with self.where.waiting():
            dist.all_gather_object(held, value, group=self.group)
        return held
