"""A few steps of a tiny network under a policy, without a pipeline around it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.models.networks import stdit_inputs, tiny_stdit
from videoaccel.generation.denoise import Network, denoise
from videoaccel.models.network_config import identity_of
from videoaccel.models.seam import direct
from videoaccel.models.stdit import STDiT3
from videoaccel.session.costs import Costs, count_flops
from videoaccel.session.job import Job, Mix, Smaller, Velocities, local_mix
from videoaccel.session.policy import Policy, Probe, Session
from videoaccel.session.registry import policy_class

SIZE = (3, 8, 8)


def make_job(
    model: STDiT3,
    *,
    steps: int = 6,
    batch: int = 1,
    guidance: float = 4.0,
    size: Sequence[int] = SIZE,
    x_mask: Tensor | None = None,
    **fields: Any,
) -> Job:
    """The job of :func:`rollout`."""
    _, rows, columns = model.token_grid(size)
    return Job(
        sigmas=torch.linspace(1, 0, steps + 1).expand(batch, -1),
        latent_shape=(4, *size),
        guidance_scale=guidance,
        branches=("cond",) if guidance == 1 else ("cond", "uncond"),
        x_mask=x_mask,
        places=rows * columns,
        dtype=torch.float32,
        seed=0,
        blocks=model.sites,
        patch=model.patch,
        identity=lambda: identity_of(model),
        **fields,
    )


@torch.inference_mode()
def rollout(
    policy: Policy | Callable[[Job, Mix], Session] | None,
    *,
    model: STDiT3 | None = None,
    steps: int = 6,
    batch: int = 1,
    only: Sequence[int] | None = None,
    guidance: float = 4.0,
    size: Sequence[int] = SIZE,
    callback: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    mix: Mix = local_mix,
    **job: Any,
) -> tuple[Tensor, Session]:
    """Latents [B, 4, *size] after ``steps``, and the session that made them; of ``only`` some samples of a batch."""
    model = model or tiny_stdit()
    job.setdefault("costs", lambda unit: costs_of(model, size))
    chosen = list(range(batch)) if only is None else list(only)
    task = make_job(model, steps=steps, batch=len(chosen), guidance=guidance, size=size, **job)
    inputs = stdit_inputs(tuple(size), batch=batch, given=False, lengths=None)  # type: ignore[arg-type]
    rows = [branch * batch + row for branch in range(len(task.branches)) for row in chosen]
    y = classes(rows) if model.reads_classes else inputs["y"][rows]
    pixels = {"fps": torch.tensor([8.0]), "height": 64.0, "width": 64.0}
    context = model.prepare(y, **pixels, latent_size=size)

    def smaller(i: int, x: Tensor) -> Velocities:
        there = model.prepare(y, **pixels, latent_size=x.shape[2:])
        return Network(model, there, branches=task.branches, run=direct).at(x, timesteps[i], None)()

    task = replace(task, smaller=Smaller(smaller, lambda small: share_of(model, small, size)))
    if policy is None:
        session = Session(task, mix=mix)
    else:
        session = policy.session(task, mix=mix) if isinstance(policy, Policy) else policy(task, mix)
    network = Network(model, context, branches=task.branches, run=direct if policy is None else session.run)
    noise = torch.randn(batch, *task.latent_shape, generator=torch.Generator().manual_seed(5))
    timesteps = 1000 * task.sigmas[:, :-1].T
    out = denoise(
        noise[chosen], timesteps, network=network, session=session, guidance_scale=guidance, callback=callback
    )
    return out, session


def share_of(model: STDiT3, small: Sequence[int], size: Sequence[int]) -> float | None:
    """Tokens of a smaller latent over those of the whole one; None if the model takes no such size."""
    try:
        return math.prod(model.token_grid(small)) / math.prod(model.token_grid(size))
    except ValueError:
        return None


def classes(rows: Sequence[int]) -> Tensor:
    """Classes of rows for a network that reads these."""
    return torch.tensor([float(row) for row in rows]).view(-1, 1, 1, 1)


def costs_of(model: STDiT3, size: Sequence[int] = SIZE, *, rows: int = 2) -> Costs:
    """FLOPs of the network at this size."""
    context = model.prepare(
        torch.zeros(rows, 1, 1, 1) if model.reads_classes else torch.zeros(rows, 1, 9, 16),
        fps=torch.tensor([8.0]),
        height=64.0,
        width=64.0,
        latent_size=size,
    )
    x, t = torch.zeros(rows, 4, *size), torch.zeros(rows)
    return count_flops(lambda run: model(x, t, context=context, run=run), blocks=model.sites)


def computed_at(session: Session, name: str) -> list[int]:
    """The steps in which a place was computed whole."""
    return [
        i
        for i, step in enumerate(session.trace)
        for place, a in step.items()
        if (str(place), str(a)) == (name, "compute")
    ]


def measure(name: str, **options: Any) -> dict[str, Tensor]:
    """The tables that a method's probe measures in a dense run, averaged over samples."""
    _, probe = rollout(lambda job, mix: policy_class(name).probe(job, mix=mix), **options)  # type: ignore[arg-type,return-value]
    assert isinstance(probe, Probe)
    return {table: values.mean(0) for table, values in probe.tables().items()}
