"""The ranks that make clips together, as one frozen value that is handed down; a lone process is ``Mesh()``."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]
from typing_extensions import Self

from videoaccel.common.launcher import env_number, rank_started, ranks_started
from videoaccel.parallel.comm import Comm, RankError, Whereabouts
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.meeting import address, meet
from videoaccel.parallel.providers import find_provider
from videoaccel.parallel.watch import Watch

PATIENCE = 25.0
"""Seconds that ranks wait for each other within a step."""

LONG = timedelta(hours=6)
"""The same outside of steps: while one loads, encodes text or writes a file."""


def ranks_here() -> int:
    """Ranks that this process is one of, as a launcher's environment says; 1 without one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return ranks_started()


def rank_here() -> int:
    """This process's number among them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return rank_started()


def local_ranks(ranks: int) -> int:
    """Those of so many ranks that are on this machine."""
    return env_number("LOCAL_WORLD_SIZE", ranks)


@dataclass(frozen=True)
class Mesh:
    """Data x guidance x sequence ranks, and how to reach them.

    Attributes:
        degrees: How many of each.
        rank: This process among all.
        sequence: Ranks that share this one's places.
        guidance: Ranks with the same places of the other guidance branch.
        clip: Ranks that work on the same clip.
        control: The same, for small values in host memory within a step.
        calm: The same, outside of steps: waits as long as it takes.
        everyone: All ranks, likewise.
        where: Where this rank is.
        watch: Signs of life of all ranks; None where there is nobody to watch.
    """

    degrees: Degrees = field(default_factory=Degrees)
    rank: int = 0
    sequence: Comm = field(default_factory=Comm.lone)
    guidance: Comm = field(default_factory=Comm.lone)
    clip: Comm = field(default_factory=Comm.lone)
    control: Comm = field(default_factory=Comm.lone)
    calm: Comm = field(default_factory=Comm.lone)
    everyone: Comm = field(default_factory=Comm.lone)
    where: Whereabouts = field(default_factory=Whereabouts)
    watch: Watch | None = None

    @classmethod
    def from_env(
        cls,
        degrees: Degrees | None = None,
        *,
        device: str = "cpu",
        provider: str = "torch",
        patience: float = PATIENCE,
    ) -> "Mesh":
        """The mesh of the ranks that a launcher (torchrun, Slurm, ``--gpus``) has started; alone without one.

        Args:
            degrees: Default: all ranks share places.
            device: Kind of device that tensors are on; ``cuda`` communicates by NCCL, others by gloo.
            provider: ``torch`` or ``colossalai``.
            patience: Seconds to wait for a rank within a step.

        Raises:
            ValueError: The degrees do not multiply to the number of ranks, or the provider is not installed.
            OSError: The ranks do not find each other: the port is in use, or nobody answers.
        """
        ranks = ranks_here()
        degrees = degrees or Degrees(1, 1, ranks)
        if degrees.ranks != ranks:
            raise ValueError(f"{degrees} makes {degrees.ranks} ranks, but {ranks} were started")
        if ranks == 1:
            return cls()
        make = find_provider(provider)
        kind = torch.device(device).type
        joined = not dist.is_initialized()
        if joined:
            _join(kind)
        where = Whereabouts()
        groups = make(degrees, kind)
        for group in groups:
            # Not public, but there is no public way to give the groups of a DeviceMesh a timeout.
            distributed_c10d._set_pg_timeout(timedelta(seconds=patience), group)
        rank = dist.get_rank()
        comms = {name: Comm(group, where=where) for name, group in groups._asdict().items()}
        watch = _watch(rank, ranks, where, patience) if joined else None
        where.explain = None if watch is None else watch.explain
        apart = partial(Whereabouts, explain=where.explain, seen=where)  # who waits there is not late
        return cls(
            degrees=degrees,
            rank=rank,
            **comms,
            control=Comm(_side_group(degrees, rank, timedelta(seconds=patience)), where=where),
            calm=Comm(_side_group(degrees, rank, LONG), where=apart()),
            everyone=Comm(dist.new_group(backend="gloo", timeout=LONG), where=apart()),
            where=where,
            watch=watch,
        )

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this rank writes the clips of its group."""
        return self.clip.rank == 0

    @property
    def replica(self) -> int:
        """Number of this rank's group among those that make clips side by side."""
        return self.rank // self.degrees.clip

    def compare(self, decisions: Mapping[str, str]) -> None:
        """End a step: make sure that all ranks of the clip have taken these decisions, by place, in it.

        Raises:
            RankError: One has not; says which, the step and the first place at which they differ.
        """
        if self.control.size == 1:
            return
        text = json.dumps(dict(decisions))
        digest = int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
        found = self.control.all_gather(torch.tensor([digest]), name="digest").flatten().tolist()
        if len(set(found)) > 1:
            raise RankError(self._difference(self.control.each(dict(decisions))))
        self.where.step += 1

    def require_alike(self, told: Mapping[str, Any]) -> None:
        """Make sure that all ranks were told the same.

        Raises:
            ValueError: One was not; says which, and the first thing that differs.
        """
        everyone = self.everyone.each(dict(told))
        for other, found in enumerate(everyone):
            for name, value in everyone[0].items():
                if found.get(name) != value:
                    raise ValueError(
                        f"rank {other} was told `{name}` {found.get(name)!r}, rank 0 {value!r}; all ranks need the same"
                    )

    def _difference(self, decisions: list[Mapping[str, str]]) -> str:
        base = decisions[0]
        for other, found in enumerate(decisions):
            for place in {**base, **found}:
                if base.get(place) != found.get(place):
                    return (
                        f"ranks decided differently in step {self.where.step} at {place}: rank {other} "
                        f"{found.get(place)}, rank 0 {base.get(place)}"
                    )
        return f"ranks asked for decisions in another order in step {self.where.step}"

    def close(self, *, reason: str = "") -> None:
        """Take leave; with ``reason`` the others are told that this rank failed."""
        if self.watch is not None:
            self.watch.close(reason=reason)
        if self.watch is not None and not reason:  # after a failure a group may wait for those who are gone
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        """Close the mesh at the end of the block.

        An exception that leaves it before the first exchange has ``said_by_first``: whether rank 0 fails with the same.
        """
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        text = "" if error is None else f"failed: {' '.join(str(error).split()) or type(error).__name__}"
        ended = isinstance(error, SystemExit | KeyboardInterrupt)
        self.close(reason="was told to end" if ended else text)
        begun = self.where.calls > 0  # from then on every rank says where it was
        if error is not None:
            alone = ended or begun or self.first or self.watch is None
            error.said_by_first = not alone and self.watch.heard_of(text)  # type: ignore


def _join(kind: str) -> None:
    """Find the other ranks.

    Raises:
        OSError: That did not work.
    """
    place = ":".join(map(str, address()))
    if kind == "cuda":
        torch.cuda.set_device(env_number("LOCAL_RANK", 0))
    try:
        backend, store = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", meet()
        dist.init_process_group(backend, timeout=LONG, store=store, rank=rank_started(), world_size=ranks_started())
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if "EADDRINUSE" in text or "already in use" in text:
            raise OSError(
                f"port {os.environ.get('MASTER_PORT')} (MASTER_PORT) is in use by another process; choose another, "
                f"with torchrun by --master-port"
            ) from error
        raise OSError(f"the ranks did not find each other at {place} (MASTER_ADDR, MASTER_PORT): {text}") from error


def _watch(rank: int, ranks: int, where: Whereabouts, patience: float) -> Watch:
    store = TCPStore(*address(), is_master=False, wait_for_workers=False)
    # Several runs may share a launcher's store one after the other.
    run = PrefixStore(f"videoaccel/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return Watch(run, rank=rank, ranks=ranks, where=where, patience=patience)


def _side_group(degrees: Degrees, rank: int, timeout: timedelta) -> Any:
    """A gloo group of this rank's clip; every rank makes those of all clips, in the same order."""
    own = None
    for replica in range(degrees.data):
        members = range(replica * degrees.clip, (replica + 1) * degrees.clip)
        group = dist.new_group(list(members), backend="gloo", timeout=timeout)
        own = group if rank in members else own
    return own
