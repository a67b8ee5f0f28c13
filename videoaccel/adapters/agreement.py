"""Numbers that decisions rest on, the same on all ranks that share a network's work."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Agree = Callable[[Tensor], Tensor]
"""Returns the first rank's copy of numbers that all ranks have, bit by bit or nearly."""


@dataclass(frozen=True)
class Agreement:
    """How ranks agree; see :data:`Agree`.

    Attributes:
        group: Of those that share the work; None for a lone one.
    """

    group: Any = None

    def __call__(self, numbers: Tensor) -> Tensor:
        """The first rank's copy."""
        if self.group is None:
            return numbers
        copy = numbers.clone()
        dist.broadcast(copy, dist.get_global_rank(self.group, 0), group=self.group)
        return copy

    @property
    def share(self) -> tuple[int, int]:
        """Number of this rank among those that share the work, and how many they are."""
        return (0, 1) if self.group is None else (dist.get_rank(self.group), dist.get_world_size(self.group))

    def each(self, number: float, device: torch.device) -> list[float]:
        """Every rank's own number, by rank."""
        own = torch.tensor([number], dtype=torch.float64, device=device)
        found = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(found, own, group=self.group)
        return [float(one) for one in found]


alone = Agreement()
"""On one rank."""


def agreement_of(networks: Iterable[Any]) -> Agreement:
    """How the ranks agree that diffusers' context or tensor parallelism spreads a network over."""
    for network in networks:
        config = getattr(network, "_parallel_config", None)
        for mesh in (
            getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None),
            getattr(getattr(config, "tensor_parallel_config", None), "_mesh", None),
        ):
            if mesh is not None:
                return Agreement(mesh.get_group())
    return alone


def require_same(agree: Agreement, text: str, what: str, device: torch.device) -> None:
    """Make sure that all ranks have the same of something that decisions rest on.

    Args:
        agree: How they agree.
        text: What this one has, told apart by it.
        what: What it is.
        device: Where the ranks exchange.

    Raises:
        ValueError: One has something else than the first: on all of them, so that none waits for one that has left.
    """
    if agree is alone:
        return
    number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)  # exact in double precision
    found = agree.each(number, device)
    if other := [rank for rank, one in enumerate(found) if one != found[0]]:
        raise ValueError(f"rank {other[0]} has other {what} than rank 0; tell all of them the same")
