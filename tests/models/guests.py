"""Guests at the seam of under 30 lines each, for every model's tests."""

from typing import Any

import torch
from torch import Tensor

from videoaccel.models.seam import Site
from videoaccel.session.job import Job
from videoaccel.session.policy import Session


def job(model: Any, inputs: dict[str, Any]) -> Job:
    """A job of two steps on any of the networks."""
    _, h, w = model.token_grid(inputs["x"].shape[2:])
    return Job(
        sigmas=torch.tensor([[1.0, 0.5, 0.0]]),
        latent_shape=tuple(inputs["x"].shape[1:]),
        guidance_scale=7.0,
        branches=("cond", "uncond"),
        x_mask=None,
        places=h * w,
        dtype=torch.float32,
        seed=0,
    )


class PruneColumns(Session):
    """Computes kept columns only, with keys and values from all of them; the rest of the stream passes by."""

    def __init__(self, job: Job, *, keep: Tensor, kv: str = "all") -> None:
        super().__init__(job)
        self.keep, self.kv = keep, kv

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        if site.kind in ("body", "block"):
            return super().run(site, branch, x, cond)
        part = x[:, :, self.keep]
        options = {}
        if (site.kind, site.axis) == ("attn", "space") and self.kv == "all":
            options["kv"] = branch.pre(x, cond)
        delta = self.mix(site, branch, branch.pre(part, cond), cond, **options)
        return x.index_copy(2, self.keep, branch.add(part, delta, cond))


class ReuseStack(Session):
    """Keeps what the whole stack of blocks added at a computed step and adds it again at a served one."""

    def __init__(self, job: Job, *, last: Site) -> None:
        super().__init__(job)
        self.last, self.serve, self.computed = last, False, 0

    def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        if site.kind != "block":
            return super().run(site, branch, x, cond)
        first = site == Site("block", "space", 0)
        if self.serve:
            return (x.float() + self.delta).to(x.dtype) if first else x
        if first:
            self.entry = x
        self.computed += 1
        out = super().run(site, branch, x, cond)
        if site == self.last:
            self.delta = out.float() - self.entry.float()
        return out
