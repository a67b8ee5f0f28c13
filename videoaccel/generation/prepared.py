"""A denoising run, ready to start from any of its steps: what a generation, a calibration and a comparison share.

Shape legend: B samples, N steps, Z latent channels, T latent frames, h, w latent rows and columns.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from videoaccel import __version__
from videoaccel.generation.denoise import Network, StepCallback, Update, denoise
from videoaccel.generation.graphs import Graphs, switches
from videoaccel.generation.places import signature
from videoaccel.generation.replay import Replay
from videoaccel.models.compiled import is_compiled, is_new_to_network
from videoaccel.models.forms import forms_of, in_plain_form
from videoaccel.models.network_config import identity_of
from videoaccel.models.protocols import Context, Transformer
from videoaccel.models.seam import Run, direct
from videoaccel.parallel.layout import Layout
from videoaccel.planning.costs_cache import CostsCache, machine, measured
from videoaccel.sampling.rectified_flow import active_frames
from videoaccel.session.costs import Costs, Unit, count_flops, measure_time
from videoaccel.session.job import Job, Smaller, Velocities
from videoaccel.session.policy import Session


@dataclass(frozen=True)
class Denoising:
    """All that the loop needs but a session.

    Attributes:
        model: The transformer.
        context: Its context, the rows of all branches one after the other.
        branches: Guidance branches.
        guidance_scale: Scale of classifier-free guidance.
        z: Initial latent [B, Z, T, h, w], with references written in.
        timesteps: [N, B], falling.
        sigmas: [B, N+1].
        update: The schedule's step, told the number of a step among all N.
        mask: [B, T], see :func:`videoaccel.generation.denoise.denoise`; None generates all.
        draw: Fresh noise of z's shape.
        seed: Of the first sample.
        setting: What a prior for this run must have been made for, see :mod:`videoaccel.planning.prior`.
        layout: Which of its tokens and branches are on this rank; ``context`` and ``branches`` are those.
        graphs: Recorded pieces of the network; None runs it as it is.
        keeps_variance: See :class:`videoaccel.models.protocols.Schedule`.
        context_of: (T, h, w) -> the context for a latent of that size, likewise; None if there is none.
    """

    model: Transformer
    context: Context
    branches: tuple[str, ...]
    guidance_scale: float
    z: Tensor
    timesteps: Tensor
    sigmas: Tensor
    update: Update
    mask: Tensor | None
    draw: Callable[[], Tensor]
    seed: int
    setting: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    graphs: Graphs | None = None
    keeps_variance: bool = False
    context_of: Callable[[Sequence[int]], Context] | None = None

    def job(self, *, start: int = 0, prior: Mapping[str, Tensor] | None = None, cache_memory: int | None = None) -> Job:
        """What a session is told, for the steps from ``start`` on."""
        _, rows, columns = self.model.token_grid(self.z.shape[2:])
        mask = None if self.mask is None else active_frames(self.mask, self.timesteps)
        shard = self.layout.shard(rows * columns)
        return Job(
            sigmas=self.sigmas[:, start:],
            latent_shape=tuple(self.z.shape[1:]),
            guidance_scale=self.guidance_scale,
            branches=self.branches,
            x_mask=None if mask is None else mask[start:],
            places=shard.here,
            first_place=shard.start,
            all_places=shard.places,
            agree=self.layout.agree,
            dtype=self.model.dtype,
            seed=self.seed,
            blocks=self.model.sites,
            prior=prior,
            costs=cache(self.costs),
            counted=self.counted,
            cache_memory=cache_memory,
            patch=self.model.patch,
            identity=lambda: identity_of(cast(nn.Module, self.model)),
            keeps_variance=self.keeps_variance,
            smaller=None if self.context_of is None else Smaller(partial(self._smaller(), start), self._share),
        )

    def _smaller(self) -> Callable[[int, int, Tensor], Velocities]:
        """Makes the network's call on a latent [B, Z, t, h, w] in a step counted from another one."""
        assert self.context_of is not None
        context_of = cache(self.context_of)

        def call(start: int, i: int, x: Tensor) -> Velocities:
            context, t = context_of(tuple(x.shape[2:])), self.timesteps[start + i]
            network = Network(self.model, context, branches=self.branches, run=direct)
            if self.mask is None:
                return network.at(x, t, None)()
            # A frame of several is being made if one of them is.
            active = active_frames(self.mask, t).float()[:, None]
            return network.at(x, t, nn.functional.adaptive_max_pool1d(active, x.shape[2])[:, 0] > 0)()

        return call

    def _share(self, size: Sequence[int]) -> float | None:
        """See :class:`videoaccel.session.job.Smaller`."""
        try:
            grid = self.model.token_grid(size)
        except ValueError:
            return None
        return prod(grid) / prod(self.model.token_grid(self.z.shape[2:]))

    def network(self, run: Run) -> Network:
        """The network with this run's context; ``run`` sees this rank's tokens."""
        return Network(self.model, self.context, branches=self.branches, run=self.layout.around(run))

    def network_of(self, session: Session, run: Run | None = None) -> Network:
        """The network as a session calls it: by graphs, where there are some and ``run`` is what they do.

        Args:
            session: Asked what may be replayed.
            run: The seam; default the session's.
        """
        network = self.network(session.run if run is None else run)
        if self.graphs is not None and run in (None, direct, session.run):
            network.through = partial(self._replay(self.graphs, session).call, session, network.run)
        return network

    def denoise(
        self,
        session: Session,
        *,
        run: Run | None = None,
        callback: StepCallback | None = None,
        start: int = 0,
        z: Tensor | None = None,
    ) -> Tensor:
        """The finished latent, float32 [B, Z, T, h, w].

        Args:
            session: Made for the job from ``start`` on.
            run: The seam; default the session's.
            callback: Called after every step.
            start: The first step to run.
            z: The latent before that step; default the initial one.
        """
        return denoise(
            self.z if z is None else z,
            self.timesteps[start:],
            network=self.network_of(session, run),
            session=session,
            guidance_scale=self.guidance_scale,
            update=lambda i, x, output: self.update(start + i, x, output),
            join=lambda velocities: self.layout.join(velocities, session.decisions),
            mask=self.mask,
            draw=self.draw,
            callback=callback,
        )

    def once(self, run: Run) -> None:
        """One network call at the first step, result unused: warms up, or shows a run what there is."""
        self._first_call(self.network(run))

    def warm_up(self, *, plain: bool) -> None:
        """One network call like the first step's, result unused, where a compiled network has not met its like.

        Outside of any step only a session that decides nothing can run.

        Args:
            plain: Whether steps have no session in the network.
        """
        model = cast(nn.Module, self.model)
        network = self.network(direct if plain else Session(self.job(), mix=self.layout.mix).run)

        def meet(x: Tensor, timestep: Tensor, x_mask: Tensor | None, context: Context) -> Tensor:
            call = signature((x, timestep, x_mask, context)), switches(), self.layout.key
            if not is_new_to_network(model, call, plain=plain):
                return x
            return self.model(x, timestep, x_mask=x_mask, context=context, run=network.run)

        network.through = meet
        self._first_call(network)

    def record(self, session: Session) -> None:
        """Record a whole network call like the first step's, where there are graphs and a session's can be."""
        if self.graphs is not None and session.plain:
            network = self.network(direct)
            network.through = self._replay(self.graphs, session).ready
            self._first_call(network)

    def _first_call(self, network: Network) -> None:
        first = None if self.mask is None else active_frames(self.mask, self.timesteps[0])
        network.at(self.z, self.timesteps[0], first)()

    def _replay(self, graphs: Graphs, session: Session) -> Replay:
        graphs.check(cast(nn.Module, self.model), self.z.device)
        return Replay(graphs, model=self.model, layout=self.layout, job=self.job(), session=session)

    def once_here(self, run: Run) -> None:
        """The same with all tokens on this rank, so that it can be counted or timed without the others."""
        replace(self, layout=Layout()).once(run)

    @torch.inference_mode()
    def costs(self, unit: Unit) -> Costs:
        """What this network's modules cost at this size and batch: counted or measured once, and kept."""
        blocks = self.model.sites
        if unit == "flops":
            return measured(self.flops_key(), self._count, blocks=blocks)
        return self.layout.first(
            lambda: measured(self.costs_key(), lambda: measure_time(self.once_here, blocks=blocks), blocks=blocks)
        )

    def _count(self) -> Costs:
        with in_plain_form(cast(nn.Module, self.model)):
            return count_flops(self.once_here, blocks=self.model.sites)

    def counted(self) -> Costs | None:
        """The operations of this network at this size and batch, if they were counted before; nothing is run."""
        return CostsCache().get(self.flops_key(), blocks=self.model.sites)

    def costs_key(self) -> dict[str, Any]:
        """All that times depend on: machine, libraries, network, sizes."""
        model: Any = self.model
        own = {"dtype": str(model.dtype), "compiled": is_compiled(model), **forms_of(model)}
        return {**machine(self.z.device), **self._shape(), **own}

    def flops_key(self) -> dict[str, Any]:
        """All that numbers of operations depend on: network and sizes."""
        return {"unit": "flops", "videoaccel": __version__, **self._shape()}

    def _shape(self) -> dict[str, Any]:
        model: Any = self.model
        config = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
        return {
            "network": type(model).__name__,
            "config": config,
            "latent": list(self.z.shape),
            "rows": len(self.z) * len(self.branches),
            "text": _shapes(self.context),
            "given_frames": self.mask is not None,
        }


def _shapes(context: Any) -> str:
    """Shapes of a context's tensors, as a short hash: how long the text is, and what else the network is told."""
    if isinstance(context, Tensor):
        return str(list(context.shape))
    if isinstance(context, tuple):
        return hashlib.sha256(" ".join(map(_shapes, context)).encode()).hexdigest()[:16]
    return type(context).__name__


def plain(denoising: Denoising, callback: StepCallback | None = None) -> Tensor:
    """The run without any method, as a generation without acceleration makes it."""
    return denoising.denoise(Session(denoising.job()), run=direct, callback=callback)
