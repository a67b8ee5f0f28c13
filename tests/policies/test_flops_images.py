"""The published ratios of FLOPs on DiT-XL/2 and PixArt-alpha: settings in the box, the real shapes, no weights.

Of SODA two things are published for each setting, the number of anchors and the ratio; how much is computed between
anchors follows from both, and calibrated errors say where. So errors are made up here.
"""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.image_networks import tiny_pixart
from tests.policies.rollout import make_job, rollout
from videoaccel.models.basic_blocks import BlockContext
from videoaccel.models.dit import DiT
from videoaccel.models.pixart import PixArt
from videoaccel.policies._soda_errors import AGES, SHARES
from videoaccel.session.actions import COMPUTE
from videoaccel.session.costs import Costs, count_flops
from videoaccel.session.registry import make_policy
from videoaccel.settings.config import config_folder, read_yaml


@cache
def costs(name: str, side: int = 256) -> Costs:
    """Of one image in both branches, pictures of ``side`` pixels."""
    latent = (1, side // 8, side // 8)
    with torch.device("meta"), torch.inference_mode():
        model: Any = DiT(out_channels=8) if name == "dit" else PixArt(caption_channels=4096, sample_size=64)
        x, timestep, text = torch.empty(2, 4, *latent), torch.empty(2), torch.empty(2, 1, 120, 4096)
        told = tuple(torch.empty(2, model.width) for _ in model.sites)
        places = torch.empty(1, 1, latent[1] * latent[2] // 4, model.width)
    with torch.inference_mode():
        context = BlockContext(places, told=told) if name == "dit" else model.prepare(text, latent_size=latent)
        return count_flops(lambda run: model(x, timestep, context=context, run=run), blocks=model.sites)


def errors(steps: int, sites: int, *, seed: int) -> dict[str, Tensor]:
    """Errors that grow with age, and are a little smaller where a part is computed."""
    g = torch.Generator().manual_seed(seed)
    cache_error = torch.rand(steps, sites, AGES, generator=g).cumsum(-1)
    prune = torch.stack([cache_error * (1 - share) for share in SHARES], dim=2)
    return {"soda.cache": cache_error, "soda.prune": prune, "soda.forecast": cache_error}


def boxed(name: str) -> Any:
    fields = read_yaml(config_folder("accel") / f"{name}.yaml")
    return make_policy(fields.pop("method"), **fields)


def test_a_dense_run_has_the_published_number() -> None:
    """DiT-XL/2: 118.6 billion multiplications and additions at 256x256, 524.6 at 512x512 (DiT paper, table 4 and 7)."""
    assert costs("dit").dense / 2 / 2 == pytest.approx(118.6e9, rel=0.01)
    assert costs("dit", 512).dense / 2 / 2 == pytest.approx(524.6e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "network", "steps", "anchors", "published"),
    [
        ("soda-dit-ddim", "dit", 50, 18, 2.49),
        ("soda-dit-ddpm", "dit", 250, 72, 2.73),
        ("soda-pixart-8", "pixart", 20, 8, 1.88),
        ("soda-pixart-7", "pixart", 20, 7, 2.21),
    ],
)
def test_sodas_published_ratios(name: str, network: str, steps: int, anchors: int, published: float) -> None:
    paid = costs(network)
    modules = [site for sites in paid.blocks.values() for site in sites]
    prior = errors(steps, len(modules), seed=anchors)
    job = make_job(tiny_pixart(), steps=steps, prior=prior, costs=lambda unit: paid, size=(1, 8, 8))
    object.__setattr__(job, "blocks", paid.blocks)
    plan = boxed(name).plan(job)
    assert sum(all(step.get(site) == COMPUTE for site in modules) for step in plan.steps) == anchors
    assert published <= plan.ratio(paid) <= 1.03 * published
    alone = steps * paid.dense / (anchors * paid.dense + (steps - anchors) * paid.rest)
    assert alone > published, "what is left of the budget is computed between anchors"


@pytest.mark.parametrize(("name", "steps", "published"), [("delta-dit-pixart", 20, 1.6), ("delta-dit-lcm", 4, 1.12)])
def test_delta_dits_published_ratios(name: str, steps: int, published: float) -> None:
    small = tiny_pixart(num_layers=28, num_attention_heads=1, attention_head_dim=12, cross_attention_dim=12)
    _, session = rollout(boxed(name), model=small, steps=steps, size=(1, 4, 4))
    paid = costs("pixart", 512)
    assert steps * paid.dense / paid.total(session.trace, session.shares) == pytest.approx(published, rel=0.01)
