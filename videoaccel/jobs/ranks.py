"""The ranks of an order: joined at its start, written down at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from videoaccel.jobs.resolve import WorkOrder
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import Mesh, ranks_here
from videoaccel.settings.generate import GenerateSettings


class Order(Protocol):
    """What ranks are started for."""

    @property
    def settings(self) -> GenerateSettings:
        """What all of them were told."""
        ...

    @property
    def degrees(self) -> Degrees:
        """How they share the work."""
        ...


def started(order: Order) -> Mesh:
    """The mesh of the ranks that work on an order, all of which were told the same; use it in a ``with`` block.

    Raises:
        ValueError: There are other ranks than it needs, or they were told different things.
        OSError: They do not find each other.
    """
    s = order.settings
    if order.degrees.ranks > 1 and ranks_here() == 1:
        raise ValueError(
            f"`gpus={order.degrees.ranks}` needs as many processes, and this is a lone one; videoaccel generate on the "
            f"command line starts them, or torchrun --nproc-per-node {order.degrees.ranks}"
        )
    mesh = Mesh.from_env(order.degrees, device=str(s.device), provider=s.provider, patience=s.patience)
    try:
        mesh.require_alike(s.model_dump(mode="json"))
    except BaseException as error:
        mesh.__exit__(type(error), error, None)
        raise
    return mesh


def told_of_ranks(order: WorkOrder, mesh: Mesh) -> dict[str, Any]:
    """Who made it together, for the sidecar; nothing for a lone process."""
    if order.degrees.ranks == 1:
        return {}
    sent = Counter(mesh.sequence.ledger.sent)
    if mesh.clip is not mesh.sequence:
        sent.update(mesh.clip.ledger.sent)
    sent.update(mesh.guidance.ledger.sent)
    return {"ranks": {**order.degrees._asdict(), "bytes_sent_by_first_so_far": dict(sent)}}
