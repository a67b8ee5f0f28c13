"""The published ratios of FLOPs follow from the schedules: Open-Sora 1.2 at 480p, 51 frames, 30 steps, no weights."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.models.networks import tiny_stdit
from tests.policies.rollout import rollout
from videoaccel.models.seam import Run
from videoaccel.models.stdit import STDiT3
from videoaccel.session.costs import Costs, count_flops
from videoaccel.session.registry import make_policy

LATENT = (15, 60, 107)
"""Of 51 frames of 480 x 854."""

TEXT = 100
"""Tokens of a prompt: published numbers do not say how many, but this gives the published FLOPs of a dense run."""


@cache
def costs() -> Costs:
    with torch.device("meta"), torch.inference_mode():
        model = STDiT3()
        x, timestep = torch.empty(2, 4, *LATENT), torch.empty(2)
        y, fps = torch.empty(2, 1, TEXT, 4096), torch.empty(1)
    with torch.inference_mode():
        context = model.prepare(y, fps=fps, height=480.0, width=854.0, latent_size=LATENT)

        def call(run: Run) -> Any:
            return model(x, timestep, context=context, run=run)

        return count_flops(call, blocks=model.sites)


def ratio(name: str, **fields: Any) -> float:
    """Dense FLOPs over those of a method; a small network of as many blocks tells what it does where."""
    small = tiny_stdit(depth=28, hidden_size=16, num_heads=1)
    _, session = rollout(make_policy(name, **fields), model=small, steps=30, size=(2, 4, 4))
    return 30 * costs().dense / costs().total(session.trace, session.shares)


def test_a_dense_run_has_the_published_number() -> None:
    """3230 to 3400 TFLOP, by paper."""
    assert 30 * costs().dense == pytest.approx(3.35e15, rel=0.02)


@pytest.mark.parametrize(
    ("name", "fields", "published"),
    [
        ("fora", {}, 1.875),
        ("fora", {"period": 3}, 2.5),
        ("toca", {}, 2.356),
        ("duca", {}, 2.49),
        ("pab", {}, 1 / 0.795),
    ],
)
def test_published_ratios(name: str, fields: dict[str, int], published: float) -> None:
    assert ratio(name, **fields) == pytest.approx(published, rel=0.01)
