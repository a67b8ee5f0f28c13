"""What ranks do in the tests of this folder."""

import json
import os
import warnings
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from videoaccel import GenerateSettings, generate
from videoaccel.adapters.agreement import agreement_of, require_same
from videoaccel.outside.spreading import spread
from videoaccel.parallel.mesh import Mesh
from videoaccel.rendering.run import open_render, work_with_ranks
from videoaccel.settings.layers import Layer


def clips_over_ranks(folder: str, cache: str, **settings: Any) -> list[str]:
    """The files that this rank has written."""
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": cache}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [str(path) for path in generate(GenerateSettings(model=folder, **settings))]


def clips(folder: str, cache: str, settings: str) -> list[str]:
    return clips_over_ranks(folder, cache, **json.loads(settings))


def away(name: str) -> float:
    """How far a pipeline over all ranks is from itself on one."""
    tiny = getattr(videos, name, None) or getattr(images, name)
    one = tiny()
    expected = one()
    spread(one.pipe, dist.get_world_size(), torch.device("cpu"))
    return float(one().away_from(expected))


def fails(name: str) -> bool:
    """Whether a pipeline fails over all ranks where it is not refused."""
    with mock.patch("videoaccel.outside.spreading.MASKED", ()):
        try:
            away(name)
        except RuntimeError:
            return True
    return False


def different_errors() -> str:
    """What is said where the ranks do not have the same."""
    network = videos.wan().pipe.transformer
    mesh = init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("ring", "ulysses"))
    with mock.patch("torch.accelerator.device_count", return_value=1):
        network.enable_parallelism(config=ContextParallelConfig(ulysses_degree=dist.get_world_size(), mesh=mesh))
    agree = agreement_of([network])
    require_same(agree, "alike", "measured errors", torch.device("cpu"))
    try:
        require_same(agree, str(dist.get_rank()), "measured errors", torch.device("cpu"))
    except ValueError as error:
        return str(error)
    return ""


def rendered(jobs: str, out: str) -> int:
    """How many clips all ranks have made together."""
    count = dist.get_world_size()
    shared = {"gpus": count, "dp": 1, "cfg_parallel": 1, "sp": count}
    render = open_render(jobs, out, overrides=[Layer(shared, str)])
    mesh = Mesh.from_env(render.plan.units[0].jobs[0].group.order.degrees)
    return work_with_ranks(render, mesh).made
