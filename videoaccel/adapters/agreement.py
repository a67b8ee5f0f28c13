"""Numbers that decisions rest on, the same on all ranks that share a network's work."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Agree = Callable[[Tensor], Tensor]
"""Returns the first rank's copy of numbers that all ranks have, bit by bit or nearly."""


def alone(numbers: Tensor) -> Tensor:
    """On one rank."""
    return numbers


def agreement_of(networks: Iterable[Any]) -> Agree:
    """How the ranks agree that diffusers' context or tensor parallelism spreads a network over."""
    for network in networks:
        config = getattr(network, "_parallel_config", None)
        for mesh in (
            getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None),
            getattr(getattr(config, "tensor_parallel_config", None), "_mesh", None),
        ):
            if mesh is not None:
                return _by_first(mesh.get_group())
    return alone


def require_same(agree: Agree, text: str, what: str, device: torch.device) -> None:
    """Make sure that all ranks have the same of something that decisions rest on.

    Args:
        agree: How they agree.
        text: What this one has, told apart by it.
        what: What it is.
        device: Where the ranks exchange.

    Raises:
        ValueError: This one has something else than the first.
    """
    if agree is alone:
        return
    number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)  # exact in double precision
    if int(agree(torch.tensor([number], dtype=torch.float64, device=device))) != number:
        raise ValueError(f"the ranks have different {what}; tell all of them the same")


def _by_first(group: Any) -> Agree:
    first = dist.get_global_rank(group, 0)

    def agree(numbers: Tensor) -> Tensor:
        copy = numbers.clone()
        dist.broadcast(copy, first, group=group)
        return copy

    return agree
