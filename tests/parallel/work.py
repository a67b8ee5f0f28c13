"""What the ranks do in the layout tests; importable by their processes."""

from typing import Any

import torch
from torch import Tensor

from tests.models.table import NETWORKS
from videoaccel.models.seam import Site
from videoaccel.parallel.comm import Comm
from videoaccel.parallel.layout import SequenceLayout
from videoaccel.policy import Job, Session


def _job(places: int) -> Job:
    sigmas = torch.tensor([[1.0, 0.0]])
    return Job(sigmas, (), 7.0, ("cond", "uncond"), None, places, torch.float32, seed=0)


class KeepFirstColumns(Session):
    """Prunes to the first columns of every shard, keys and values from all."""

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        if (site.kind, site.axis) != ("attn", "space"):
            return super().run(site, branch, x, cond)
        part = x[:, :, : self.keep]
        h = branch.pre(x, cond)
        delta = self.mix(site, branch, h[:, :, : self.keep], cond, kv=h)
        return torch.cat((branch.add(part, delta, cond), x[:, :, self.keep :]), dim=2)


@torch.inference_mode()
def forward(
    name: str, inputs: dict[str, Any], *, keep: int | None = None, skip_space: bool = False
) -> tuple[Tensor, dict[str, int]]:
    """The sharded forward pass of this rank and its ledger of bytes."""
    model, comm = NETWORKS[name].make(2), Comm()
    _, rows, columns = model.token_grid(inputs["x"].shape[2:])
    layout = SequenceLayout(comm, places=rows * columns)
    session = (Session if keep is None else KeepFirstColumns)(_job(rows * columns), mix=layout.mix)
    if keep is not None:
        session.keep = keep // comm.size
    run = session.run
    if skip_space:

        def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            if (site.kind, site.axis) == ("attn", "space"):
                return x
            return (
                branch.compute(x, cond, run) if site.kind in ("body", "block") else session.run(site, branch, x, cond)
            )

    return model(**inputs, run=layout.around(run)), comm.ledger.sent


def sharded(name: str, size: tuple[int, int, int], options: dict[str, Any]) -> tuple[Tensor, dict[str, int]]:
    """`forward` on inputs made here, so that they need not travel."""
    return forward(name, NETWORKS[name].inputs(size, **options))


def sharded_and_pruned(name: str, size: tuple[int, int, int], keep: int) -> tuple[Tensor, dict[str, int]]:
    """Likewise, with a session that prunes spatial attention."""
    return forward(name, NETWORKS[name].inputs(size), keep=keep)


def sharded_without_spatial_attention(name: str, size: tuple[int, int, int]) -> tuple[Tensor, dict[str, int]]:
    """Likewise, with a session that leaves spatial attention out."""
    return forward(name, NETWORKS[name].inputs(size), skip_space=True)
