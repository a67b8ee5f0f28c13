"""What the ranks do in the layout tests; importable by their processes."""

from typing import Any

import torch
from torch import Tensor

from tests.models.table import NETWORKS
from videoaccel.models.seam import Site
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.layout import Layout
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.schemes import find_layout
from videoaccel.parallel.shards import Shards
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Partial, Place
from videoaccel.session.job import Job
from videoaccel.session.policy import Session

CACHE: dict[Any, Mesh] = {}


def mesh_of(*degrees: int) -> Mesh:
    """The mesh of this pool's ranks: made once, for groups cannot be thrown away."""
    if degrees not in CACHE:
        CACHE[degrees] = Mesh.from_env(Degrees(*degrees), patience=120)
    return CACHE[degrees]


def layout_of(model: Any, size: Any, *, groups: int | None = None, scheme: str = "dsp") -> Layout:
    """All ranks of the pool on the places of a clip; a lone process has all."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if ranks == 1:
        return Layout()
    _, rows, columns = model.token_grid(size)
    return find_layout(scheme)(mesh_of(1, 1, ranks), Shards(rows * columns, ranks, groups), ("cond", "uncond"))


def job_of(model: Any, layout: Layout, places: int, rows: int) -> Job:
    shard = layout.shard(places)
    sigmas = torch.tensor([[1.0, 0.0]]).expand(rows // 2, -1)
    return Job(
        sigmas, (), 7.0, ("cond", "uncond"), None, shard.here, torch.float32, seed=0, first_place=shard.start,
        all_places=places, agree=layout.agree, blocks=model.sites,
    )  # fmt: skip


class Prunes(ActionSession):
    """Computes some columns in every module, and nothing elsewhere."""

    action: Action = COMPUTE

    def decide(self, place: Place, seen: Seen) -> Action:
        return self.action


class Skips(Session):
    """Leaves spatial attention out."""

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        return x if (site.kind, site.axis) == ("attn", "space") else super().run(site, branch, x, cond)


@torch.inference_mode()
def forward(
    name: str,
    size: tuple[int, int, int],
    options: dict[str, Any],
    *,
    action: Action | None = None,
    select: Any = "signed",
    groups: int = 8,
    skip_space: bool = False,
    scheme: str = "dsp",
) -> tuple[Tensor, dict[str, int]]:
    """The forward pass of this rank and its ledger of bytes."""
    model, inputs = NETWORKS[name].make(2), NETWORKS[name].inputs(size, **options)
    grid = inputs["x"].shape[2:]
    layout = layout_of(model, grid, groups=groups if action else None, scheme=scheme)
    _, rows, columns = model.token_grid(grid)
    job = job_of(model, layout, rows * columns, len(inputs["x"]) * (1 if options.get("guided", True) else 2))
    if action is not None:
        session: Session = Prunes(job, mix=layout.mix, groups=groups, select=select)
        session.action = action  # type: ignore[attr-defined]
        session.begin(0)
    else:
        session = (Skips if skip_space else Session)(job, mix=layout.mix)
    sent: dict[str, int] = {}
    if not layout.alone:
        layout.comm.ledger.sent.clear()  # type: ignore[attr-defined]
    out = model(**inputs, run=layout.around(session.run))
    if not layout.alone:
        sent = dict(layout.comm.ledger.sent)  # type: ignore[attr-defined]
    return out, sent


def run_forward(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, dict[str, int]]:
    """`forward` for the pool, which passes no keywords."""
    return forward(*arguments, **options)


def partial(keep: float, keys: Any) -> Partial:
    """An action that needs no slot."""
    return Partial(keep, fill="zero", keys=keys)
