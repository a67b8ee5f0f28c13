"""Independent pieces of work dealt out to the ranks of a clip; every rank gets all results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from videoaccel.parallel.mesh import Mesh


def dealt(pieces: Sequence[Callable[[], Tensor]], *, mesh: Mesh, device: torch.device) -> list[Tensor]:
    """Results of all pieces, in their order: piece k is done by rank k modulo their number.

    Args:
        pieces: The same on all ranks.
        mesh: The ranks.
        device: Where results are.
    """
    size, rank = mesh.clip.size, mesh.clip.rank
    found: list[Tensor] = []
    for start in range(0, len(pieces), size):
        count = min(size, len(pieces) - start)
        own = pieces[start + rank]() if rank < count else None
        shapes: list[Any] = mesh.calm.each(None if own is None else (tuple(own.shape), own.dtype))
        for source, (shape, dtype) in enumerate(shapes[:count]):
            held = own if source == rank else torch.empty(shape, dtype=dtype, device=device)
            assert held is not None
            found.append(mesh.clip.broadcast(held, source=source))
    return found
