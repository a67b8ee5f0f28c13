"""A session asked what it would do, by a network of the same shape that computes nothing.

Shape legend: R generation rows, B samples, T token frames, S places, C channels (a few), Z, h, w of the latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from videoaccel.models.seam import BODY, Attend, Run, Site
from videoaccel.session.job import Job, Velocities
from videoaccel.session.policy import Session

CHANNELS = 4
"""Channels of the network that computes nothing, unless told otherwise."""


@torch.inference_mode()
def rehearse(session: Session, job: Job, *, frames: int, channels: int = CHANNELS) -> None:
    """Take a session through all steps; its trace then says what it does.

    What it decides on numbers from inside the network it decides on random ones: :func:`depends_on_clip` says whether.

    Args:
        session: Fresh.
        job: Its job.
        frames: T, which need not be that of the latent.
        channels: C, where the session does not say what it has to be.
    """
    generator = torch.Generator().manual_seed(job.seed)
    body = _Body(job.blocks)
    x = torch.randn(job.samples, *job.latent_shape, generator=generator)

    def call(rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
        names = job.branches if branches is None else tuple(branches)
        count = job.samples if rows is None else len(rows)
        width = session.channels or channels
        tokens = torch.randn(count * len(names), frames, job.places, width, generator=generator).to(job.dtype)
        session.run(BODY, body, tokens, None)
        return {name: torch.randn(count, *job.latent_shape, generator=generator) for name in names}

    def smaller(i: int, x: Tensor) -> Velocities:
        return {name: torch.randn(x.shape, generator=generator) for name in job.branches}

    if session.job.smaller is not None:
        session.job = replace(session.job, smaller=replace(session.job.smaller, call=smaller))
    for i in range(job.steps):
        session.predict(i, x, call)


def depends_on_clip(session: Session) -> bool:
    """Whether a rehearsed session looked at numbers that are another clip's in another clip."""
    return any(session.reads)


@dataclass(frozen=True)
class _Module:
    """A branch whose ``mix`` is next to nothing; attention is looked at by some, so their kernel is called."""

    site: Site

    def pre(self, x: Tensor, cond: Any) -> Tensor:
        return x

    def mix(
        self, h: Tensor, cond: Any, *, kv: Tensor | None = None, width: float = 1.0, attend: Attend | None = None
    ) -> Tensor:
        if attend is not None:
            keys = h if kv is None else kv
            if self.site.axis == "time":
                h, keys = h.transpose(1, 2), keys.transpose(1, 2)
            q, k = (x.flatten(0, 1).unsqueeze(2) for x in (h, keys))
            h = attend(q, k, k).squeeze(2).view(h.shape)
            h = h.transpose(1, 2) if self.site.axis == "time" else h
        return 0.1 * h

    def add(self, x: Tensor, delta: Tensor, cond: Any) -> Tensor:
        return x + delta

    def ordered(self, order: Tensor) -> "_Module":
        return self

    def compute(self, x: Tensor, cond: Any, run: Run) -> Tensor:
        return self.add(x, self.mix(self.pre(x, cond), cond), cond)


@dataclass(frozen=True)
class _Block:
    sites: tuple[Site, ...]

    @cached_property
    def modules(self) -> dict[str, _Module]:
        return {site.kind: _Module(site) for site in self.sites}

    def __getattr__(self, name: str) -> _Module:
        kind = {"cross_attn": "cross"}.get(name, name)
        if kind in ("attn", "cross", "mlp") and kind in self.modules:
            return self.modules[kind]
        raise AttributeError(name)

    def localise(self, cond: Any) -> Any:
        return cond

    def compute(self, x: Tensor, cond: Any, run: Run) -> Tensor:
        for site in self.sites:
            x = run(site, self.modules[site.kind], x, cond)
        return x


@dataclass(frozen=True)
class _Body:
    blocks: Mapping[Site, tuple[Site, ...]]

    def compute(self, x: Tensor, cond: Any, run: Run) -> Tensor:
        for site, modules in self.blocks.items():
            x = run(site, _Block(modules), x, cond)
        return x
