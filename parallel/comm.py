"""The collectives that layouts need, in one place, with a ledger of the bytes that they send.

Shape legend: N ranks of the group.
"""

from dataclasses import dataclass, field

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


class Comm:
    """Collectives over one process group; a group of one rank sends nothing.

    Args:
        group: The process group; None is the default one.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.size = dist.get_world_size(group) if dist.is_initialized() else 1
        self.rank = dist.get_rank(group) if dist.is_initialized() else 0
        self.ledger = Ledger()

    def all_to_all(self, x: Tensor) -> Tensor:
        """Send slice n of x [N, ...] to rank n; slice n of the result comes from rank n."""
        if self.size == 1:
            return x
        x = x.contiguous()
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x, group=self.group)
        self.ledger.add("all_to_all", x.nbytes * (self.size - 1) // self.size)
        return out

    def all_gather(self, x: Tensor) -> Tensor:
        """The x of all ranks, [N, ...]."""
        if self.size == 1:
            return x[None]
        x = x.contiguous()
        out = x.new_empty((self.size, *x.shape))
        dist.all_gather_into_tensor(out.view(-1, *x.shape[1:]), x, group=self.group)
        self.ledger.add("all_gather", x.nbytes * (self.size - 1))
        return out
