"""Ulysses: in spatial attention the ranks hold some heads of all places instead of all heads of some places.

Four tensors travel (queries, keys, values, the result) where dynamic sequence parallelism sends two, but no frames are
needed to share the work: it is the layout of single pictures, and of clips with fewer frames than ranks. Heads are
padded to a multiple of the ranks.

Shape legend: M rows times frames, S places, N ranks, H heads, D head size; s places of a shard.

Source: DeepSpeed Ulysses, arXiv 2309.14509.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from videoaccel.models.seam import Branch, Site, attention
from videoaccel.parallel.layout import MeshLayout, cut, joined, padded


class UlyssesLayout(MeshLayout):
    """A clip over the ranks of a mesh, spatial attention by heads."""

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
        kernel = options.pop("attend", self.kernel or attention)
        every = [self.shards.here(rank) for rank in range(self.comm.size)]
        queries = every if columns is None else list(counts)
        keys = every if kv is not None else queries

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is None, "spatial attention has no mask"
            heads = q.shape[2]
            whole = [self._to_heads(x, of) for x, of in ((q, queries), (k, keys), (v, keys))]
            return self._from_heads(kernel(*whole), heads, max(queries)).narrow(1, 0, q.shape[1])

        out = branch.mix(padded(h, max(queries), dim=2), cond, kv=kv, attend=attend, **options)
        return out.narrow(2, 0, h.shape[2])

    def _to_heads(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """[M, s, H, D] -> [M, S, H / N, D]."""
        size = self.comm.size
        parts = cut(padded(x, max(counts), dim=1), size, -(-x.shape[2] // size), dim=2)
        return joined(self.comm.all_to_all(parts), dim=1, length=sum(counts))

    def _from_heads(self, x: Tensor, heads: int, each: int) -> Tensor:
        """[M, S, H / N, D] -> [M, s, H, D], s = ``each``."""
        return joined(self.comm.all_to_all(cut(x, self.comm.size, each, dim=1)), dim=2, length=heads)
