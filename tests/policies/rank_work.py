"""What each rank of a clip decides; importable by their processes."""

import torch
import torch.distributed as dist
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import make_job
from videoaccel.policies.sada import Sada


def total(stats: Tensor) -> Tensor:
    """Numbers added up over all ranks."""
    summed = stats.clone()
    dist.all_reduce(summed)
    return summed


def sada_verdicts(criterion: str, fuzz: float) -> list[list[str]]:
    """Verdicts on a smooth prediction of which each rank has its own, a little different, copy."""
    job = make_job(tiny_stdit(depth=1), steps=20, guidance=1.0, size=(3, 4, 4), agree=total)
    session = Sada(criterion=criterion, max_run=2).session(job)  # type: ignore[arg-type]
    noise = torch.randn(20, 1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(dist.get_rank()))
    for i in range(20):
        at = float(job.sigmas[0, i])
        value = torch.full((1, 4, 3, 4, 4), 1 + at**3) + fuzz * noise[i]
        session.predict(i, torch.zeros(1, 4, 3, 4, 4), lambda rows=None, branches=None, v=value: {"cond": v})
    return session.verdicts  # type: ignore[attr-defined]
