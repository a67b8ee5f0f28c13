"""Dynamic sequence parallelism: places are spread over the ranks, and only spatial self-attention moves them.

Everything but spatial self-attention is local to a place, so the stream stays sharded over places from the embedding to
the final layer. Spatial self-attention needs whole frames: its input switches to a sharding over frames (one
all-to-all), its output back. Padding is put on the axis about to be cut and taken off once that axis is whole again, so
attention never sees it and the result is exact for any number of frames, places and ranks.

Shape legend: B batch, T frames, S places, C channels, N ranks; t = ceil(T/N), s = ceil(S/N).

Source: Dynamic Sequence Parallelism, arXiv 2403.10266.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from videoaccel.models.seam import Branch, Run, Site, Work
from videoaccel.parallel.comm import Comm


class SequenceLayout:
    """Shards one generation's tokens over the ranks of ``comm``.

    The order at a module is session, layout, branch: what a session serves from its cache is neither computed nor sent.

    Args:
        comm: The ranks that share the clip.
        places: S, without padding.
    """

    def __init__(self, comm: Comm, *, places: int) -> None:
        self.comm, self.places = comm, places

    def around(self, inner: Run) -> Run:
        """A run that shards the body's input, has ``inner`` do everything in it, and gathers the small output."""

        def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
            if site.kind != "body":
                return inner(site, branch, x, cond)
            shards = self._cut(x, dim=2)
            out = self.comm.all_gather(inner(site, branch, shards[self.comm.rank], cond))
            return self._join(out, dim=2, length=self.places)

        return run

    def mix(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        """Mix tokens of h [B, T, s, C]; see :class:`videoaccel.policy.Mix`."""
        if site.kind != "attn" or site.axis != "space":
            return branch.mix(h, cond, **options)
        frames = h.shape[1]
        if options.get("kv") is not None:
            options["kv"] = self._to_frames(options["kv"], self.places)
        width = self.places if options.get("kv") is None else h.shape[2] * self.comm.size
        out = branch.mix(self._to_frames(h, width), cond, **options)
        return self._to_places(out, frames)

    def _to_frames(self, x: Tensor, places: int) -> Tensor:
        """[B, T, s, C] -> [B, t, S, C]."""
        return self._join(self.comm.all_to_all(self._cut(x, dim=1)), dim=2, length=places)

    def _to_places(self, x: Tensor, frames: int) -> Tensor:
        """[B, t, S, C] -> [B, T, s, C]."""
        return self._join(self.comm.all_to_all(self._cut(x, dim=2)), dim=1, length=frames)

    def _cut(self, x: Tensor, *, dim: int) -> Tensor:
        """Pad ``dim`` to a multiple of N with zeros and cut it into N shards, stacked in front."""
        missing = -x.shape[dim] % self.comm.size
        padded = F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, missing))
        return padded.unflatten(dim, (self.comm.size, -1)).movedim(dim, 0)

    @staticmethod
    def _join(shards: Tensor, *, dim: int, length: int) -> Tensor:
        """The inverse: shards [N, ...] side by side along ``dim``, cut to its real length."""
        return shards.movedim(0, dim).flatten(dim, dim + 1).narrow(dim, 0, length)
