"""What ranks do in the tests of this folder."""

import warnings
from tempfile import TemporaryDirectory
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

from tests.adapters import video_pipes as videos
from videoaccel.adapters.agreement import agreement_of
from videoaccel.generation.accelerate import accelerate
from videoaccel.planning.shelf import priors_on_shelf


def wan_over_ranks(method: str, threshold: float | None) -> tuple[list[int], list[int], float, list[float]]:
    """Evaluations computed alone and over all ranks, the distance of the latents, and numbers agreed upon."""
    fields = {} if threshold is None else {"threshold": threshold}
    tiny = videos.wan()
    with accelerate(tiny.pipe, method, **fields) as alone:
        expected = tiny()
    # diffusers counts accelerators, of which there are none here.
    with mock.patch("torch.accelerator.device_count", return_value=1):
        tiny.pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=dist.get_world_size()))
    agree = agreement_of([tiny.pipe.transformer])
    with accelerate(tiny.pipe, method, **fields) as spread:
        found = tiny()
    agreed = agree(torch.tensor([float(dist.get_rank()), 7.0])).tolist()
    assert alone.report().residual == spread.report().residual
    return alone.computed, spread.computed, found.away_from(expected), agreed


def measured_over_ranks(method: str, **fields: float) -> tuple[list[int], list[float]]:
    """Evaluations computed with constants that every rank has measured for itself, and what it has measured."""
    tiny = videos.wan()
    with mock.patch("torch.accelerator.device_count", return_value=1):
        tiny.pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=dist.get_world_size()))
    with (
        TemporaryDirectory() as folder,
        mock.patch.dict("os.environ", {"XDG_CACHE_HOME": folder}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        with accelerate(tiny.pipe, method, calibrate=1, **fields) as fast:
            tiny()
            tiny()
            prior = fast.prior
            assert prior is not None and len(list(priors_on_shelf())) >= (dist.get_rank() == 0)
            return fast.computed, prior.tables[{"teacache": "teacache.probe"}.get(method, "adacache.distance")].tolist()
