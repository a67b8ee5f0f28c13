"""The seam: the one place where a guest may stand between a model and its own computation.

A model hands every piece of work to ``run(site, branch, x, cond)`` instead of calling it. The default, :func:`direct`,
calls it on the spot and gives the same bits as straight code. A session (caching, pruning) or a layout (sharding)
passes another ``run`` and decides what is computed, on which tokens, and with which attention.

Shape legend: B batch, T latent frames, S places in a frame, C channels, L keys, N heads, D head size.
The residual stream ``x`` is always [B, T, S, C] at the seam.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch.nn.functional as F
from torch import Tensor

Mixing = TypeVar("Mixing", bound=Callable[..., Tensor])
Kind = Literal["body", "block", "attn", "cross", "mlp"]
Axis = Literal["space", "time", "joint"]


class Site(NamedTuple):
    """Where in the network a piece of work stands.

    Attributes:
        kind: ``body`` (embedded tokens to per-token outputs), ``block``, or one of the modules in it.
        axis: Which tokens the block's self-attention mixes: those of a frame, of a place, or all.
        layer: Number of the block among those of its axis.
    """

    kind: Kind
    axis: Axis = "joint"
    layer: int = 0

    def __str__(self) -> str:
        return f"{self.axis}.{self.layer}.{self.kind}" if self.kind != "body" else "body"


BODY = Site("body")


class Attend(Protocol):
    """Attention kernel: q [M, L, N, D], k and v [M, K, N, D], mask bool [M, 1, 1, K] (True = may be seen)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return softmax(q k^T / sqrt(D)) v, [M, L, N, D]."""
        ...


class Work(Protocol):
    """Anything a model hands to the seam: the body, a block, or a module's branch."""

    def compute(self, x: Tensor, cond: Any, run: "Run") -> Tensor:
        """Do the work; whatever is nested in it goes through ``run``. [B, T, S, C] -> [B, T, S, ...]."""
        ...


class Branch(Work, Protocol):
    """A module on the residual stream, in three parts so that each can be left out, moved or replaced.

    ``pre`` and ``add`` act on every token alone; only ``mix`` lets tokens see each other. So a guest may cut ``x`` to
    some places, keep the output of ``mix`` for later steps, or send it to other ranks, and stay exact. A branch may
    bring kernels for a guest that does so with some columns, see :mod:`videoaccel.session.columns`, and a form of
    ``pre`` for one that does nothing of the kind, see :func:`pre_for_mix`.
    """

    def pre(self, x: Tensor, cond: Any) -> Tensor:
        """Norm and modulation, [B, T, S, C] -> [B, T, S, C]; identity where the module has none."""
        ...

    def mix(
        self, h: Tensor, cond: Any, *, kv: Tensor | None = None, width: float = 1.0, attend: Attend = ...
    ) -> Tensor:
        """The module itself, its result before the gate. [B, T, S, C] -> [B, T, S, C].

        Args:
            h: Output of ``pre``.
            cond: The conditioning handed to the seam.
            kv: For self-attention: tokens [B, T', S', C] that give keys and values in place of ``h``.
            width: For the MLP: share of the hidden neurons to use, counted from the first.
            attend: For attention: the kernel to use.
        """
        ...

    def add(self, x: Tensor, delta: Tensor, cond: Any) -> Tensor:
        """Gate (where there is one) and residual: ``x + gate * delta``."""
        ...


def pre_for_mix(branch: Any, x: Tensor, cond: Any) -> Any:
    """A branch's ``pre``, in the form that its ``mix`` likes best, for whoever hands it on as it is.

    What it is, is the branch's own affair: tokens in 8 bits, perhaps, of which it has the shape alone.
    """
    own = getattr(branch, "pre_for_mix", None)
    return branch.pre(x, cond) if own is None else own(x, cond)


def hands_on(mix: Mixing) -> Mixing:
    """Mark a function that has a branch mix what it was given, whatever that is, and does nothing else with it."""
    mix.hands_on = True  # type: ignore[attr-defined]
    return mix


class Run(Protocol):
    """What a model calls instead of its own modules."""

    def __call__(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        """Return the residual stream (or, at the body, the per-token outputs) after the work at ``site``."""
        ...


def direct(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
    """Do the work here and now: the run that changes nothing."""
    return branch.compute(x, cond, direct)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's scaled dot-product attention on [M, L, N, D] tensors: the default kernel."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)
