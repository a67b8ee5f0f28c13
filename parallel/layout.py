"""Where a clip's tokens are: all on one rank, or spread over the places by dynamic sequence parallelism.

Everything but spatial self-attention is local to a place, so the stream stays sharded over places from the embedding to
the final layer. Spatial self-attention needs whole frames: its input switches to a sharding over frames (one
all-to-all), its output back. Padding is put on the axis about to be cut and taken off once that axis is whole again, so
attention never sees it and the result is exact for any number of frames, places and ranks.

Shape legend: B batch, T frames, S places, C channels, N ranks, k kept columns; t = ceil(T/N), s places of a shard.

Source: Dynamic Sequence Parallelism, arXiv 2403.10266.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.models.seam import Attend, Branch, Run, Site, Work, hands_on
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.shards import Shard, Shards

Found = TypeVar("Found")


class Layout:
    """All of a clip on this rank: changes nothing. What the layouts over several ranks share.

    The order at a module is session, layout, branch: what a session serves from its cache is neither computed nor sent.

    Args:
        kernel: Attention kernel; None is PyTorch's own.
    """

    alone = True
    """Whether this rank has no others to work with."""

    def __init__(self, kernel: Attend | None = None) -> None:
        self.kernel = kernel

    def shard(self, places: int) -> Shard:
        """Which of so many places are here."""
        return Shard(places, 0, places)

    @property
    def key(self) -> Hashable:
        """Two layouts of one key do the same to the same tokens."""
        return (self.kernel,)

    def branches(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of the guidance branches run here."""
        return tuple(names)

    def around(self, inner: Run) -> Run:
        """A run that has ``inner`` do its work on this rank's tokens."""
        return inner

    @hands_on
    def mix(
        self, site: Site, branch: Branch, h: Tensor, cond: Any, *, columns: Any | None = None, **options: Any
    ) -> Tensor:
        """Mix tokens of h [B, T, s, C]; see :class:`videoaccel.session.job.Mix`."""
        if self.kernel is not None and site.kind != "mlp":
            options = {"attend": self.kernel, **options}
        return branch.mix(h, cond, **options)

    def agree(self, stats: Tensor) -> Tensor:
        """Numbers added up over the ranks that share the clip."""
        return stats

    def join(
        self, velocities: Mapping[str, Tensor], decisions: Callable[[], Mapping[str, str]]
    ) -> Mapping[str, Tensor]:
        """The velocities of all guidance branches, at the end of a step in which these decisions were taken."""
        return velocities

    def first(self, find: Callable[[], Found]) -> Found:
        """What the first rank finds, where others might find something else."""
        return find()


class MeshLayout(Layout):
    """A clip over the ranks of a mesh: guidance branches apart, places by dynamic sequence parallelism.

    Args:
        mesh: The ranks.
        shards: The clip's places, cut for ``mesh.sequence``.
        names: All guidance branches.
        kernel: Attention kernel; None is PyTorch's own.
    """

    alone = False

    def __init__(self, mesh: Mesh, shards: Shards, names: Sequence[str], *, kernel: Attend | None = None) -> None:
        super().__init__(kernel)
        assert shards.ranks == mesh.sequence.size
        self.mesh, self.shards, self.names, self.comm = mesh, shards, tuple(names), mesh.sequence
        mesh.where.step = 0

    def shard(self, places: int) -> Shard:
        """This rank's shard."""
        assert places == self.shards.places
        return Shard(self.shards.here(self.comm.rank), self.comm.rank * self.shards.each, places)

    @property
    def key(self) -> Hashable:
        """See :attr:`Layout.key`."""
        return type(self), self.kernel, self.shards, self.names, id(self.mesh)

    def branches(self, names: Sequence[str]) -> tuple[str, ...]:
        """One branch, or all where guidance is not split."""
        own = self.mesh.guidance
        return tuple(names) if own.size == 1 else (names[own.rank],)

    def around(self, inner: Run) -> Run:
        """A run that shards the body's input, has ``inner`` do everything in it, and gathers the small output."""
        if self.comm.size == 1:
            return inner

        def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
            if site.kind != "body":
                return inner(site, branch, x, cond)
            own = self.shard(x.shape[2])
            part = padded(x.narrow(2, min(own.start, x.shape[2]), own.here), self.shards.each, dim=2)
            done = inner(site, branch, part, cond)
            self.mesh.where.site = site
            return joined(self.comm.all_gather(done), dim=2, length=x.shape[2])

        return run

    def mix(
        self, site: Site, branch: Branch, h: Tensor, cond: Any, *, columns: Any | None = None, **options: Any
    ) -> Tensor:
        """Mix tokens of h [B, T, s, C], or of its ``columns`` [B, T, k, C]; only spatial attention leaves this rank."""
        self.mesh.where.site = site
        if (site.kind, site.axis) != ("attn", "space") or self.comm.size == 1:
            return super().mix(site, branch, h, cond, **options)
        counts = [self.shards.each] * self.comm.size if columns is None else self.shards.kept(columns.quota)
        assert h.shape[2] == counts[self.comm.rank], "a part of the columns must come with its choice"
        return self.spread(site, branch, h, cond, columns=columns, counts=counts, **options)

    def spread(
        self,
        site: Site,
        branch: Branch,
        h: Tensor,
        cond: Any,
        *,
        columns: Any | None,
        counts: Sequence[int],
        kv: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Spatial attention of h [B, T, counts[rank], C], whose columns are spread as ``counts`` says."""
        frames, each, total = h.shape[1], max(counts), sum(counts) if columns else self.shards.places
        if kv is not None:
            options["kv"] = self._to_frames(kv, self.shards.each, self.shards.places)
        if kv is not None and columns is not None:  # the queries are among what has come already
            queries = _taken(options["kv"], self._everywhere(columns, counts))
        else:
            queries = self._to_frames(h, each, total)
        out = super().mix(site, branch, queries, cond, **options)
        return self._to_places(out, each, frames).narrow(2, 0, h.shape[2])

    def agree(self, stats: Tensor) -> Tensor:
        """Sums over all ranks of the clip."""
        return self.mesh.clip.total(stats)

    def join(
        self, velocities: Mapping[str, Tensor], decisions: Callable[[], Mapping[str, str]]
    ) -> Mapping[str, Tensor]:
        """Exchange the branches' velocities, and make sure that all ranks have decided alike.

        Raises:
            RankError: They have not.
        """
        self.mesh.where.site = "the end of the step"
        self.mesh.compare(decisions())
        if self.mesh.guidance.size == 1:
            return velocities
        (own,) = velocities.values()
        return dict(zip(self.names, self.mesh.guidance.all_gather(own), strict=True))

    def first(self, find: Callable[[], Found]) -> Found:
        """What the clip's first rank finds; the others wait for it."""
        return cast(Found, self.mesh.calm.same(find() if self.mesh.leads else None))

    def _to_frames(self, x: Tensor, each: int, places: int) -> Tensor:
        """[B, T, s, C] -> [B, t, S, C]: every rank's ``each`` columns, cut to the real ones."""
        size = self.comm.size
        parts = cut(padded(x, each, dim=2), size, -(-x.shape[1] // size), dim=1)
        return joined(self.comm.all_to_all(parts), dim=2, length=places)

    def _to_places(self, x: Tensor, each: int, frames: int) -> Tensor:
        """[B, t, S, C] -> [B, T, s, C], s = ``each``."""
        return joined(self.comm.all_to_all(cut(x, self.comm.size, each, dim=2)), dim=1, length=frames)

    def _everywhere(self, columns: Any, counts: Sequence[int]) -> Tensor:
        """The kept places of all ranks, [B, k] of S."""
        own = columns.places(self.shards.each) + self.comm.rank * self.shards.each
        found = self.comm.all_gather(padded(own.int(), max(counts), dim=1), name="columns")
        return joined(found, dim=1, length=sum(counts))


def padded(x: Tensor, length: int, *, dim: int) -> Tensor:
    """Tensor x with zeros behind ``dim`` up to a length."""
    missing = length - x.shape[dim]
    return F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, missing)) if missing else x


def cut(x: Tensor, ranks: int, each: int, *, dim: int) -> Tensor:
    """Tensor x cut along ``dim`` into shards of ``each``, stacked in front: [N, ...]."""
    return padded(x, ranks * each, dim=dim).unflatten(dim, (ranks, each)).movedim(dim, 0)


def joined(shards: Tensor, *, dim: int, length: int) -> Tensor:
    """The inverse: shards [N, ...] side by side along ``dim``, cut to its real length."""
    return shards.movedim(0, dim).flatten(dim, dim + 1).narrow(dim, 0, length)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Columns [B, k] of x [B, t, S, C]."""
    rows, frames, total, width = x.shape
    starts = torch.arange(rows * frames, device=x.device).view(rows, frames, 1) * total
    index = (starts + places[:, None]).flatten()
    return x.flatten(0, 2).index_select(0, index).view(rows, frames, -1, width)
