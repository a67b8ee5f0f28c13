"""Fitted steps of pipelines that are not ours: foretold right, better than forecasts, refused where noise is drawn."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from benchmarks.peer_cases import deepened
from tests.adapters import image_pipes as images
from tests.adapters.tiny import Tiny
from videoaccel.adapters.attach import attach
from videoaccel.adapters.planned import OutputPlan, Planned
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.calibration.fitting import mean_taylor
from videoaccel.calibration.outside_fitting import Enough, FittingRule, Path, dense_paths, fit, shares_at
from videoaccel.planning.fitted import Fitted

ANCHORS, STEPS = (0, 1, 4, 5, 9), 12


def usual(anchors: tuple[int, ...], n: int) -> Fitted:
    """Mean Taylor forecasts."""
    weights = []
    for j, (anchor, stop) in enumerate(zip(anchors, (*anchors[1:], n), strict=True)):
        known = anchors[max(0, j - 2) : j + 1][::-1]
        weights.append(tuple(mean_taylor(known, range(anchor + 1, stop)).tolist()) if stop > anchor + 1 else ())
    return Fitted(anchors, tuple(weights))


def under(tiny: Tiny, rule: StepRule, seed: int) -> Tensor:
    with attach(tiny.pipe, RuleMaker(lambda: rule), method="test"):
        return tiny(steps=STEPS, seed=seed).tensors[0]


def paths_of(tiny: Tiny, clips: int) -> list[list[Tensor]]:
    found = dense_paths(STEPS, clips, lambda rule, clip: under(tiny, rule, clip))
    assert found is not None
    return found


def served(plan: Fitted) -> Planned:
    steps = (None if i in plan.anchors else shares_at(plan, i) for i in range(STEPS))
    return Planned(OutputPlan({"transformer": tuple(steps)}))


def plain_dit() -> Tiny:
    return images.dit(DDIMScheduler(clip_sample=False))


@pytest.fixture(scope="module", params=[images.pixart, plain_dit], ids=["pixart", "dit"])
def tiny(request: Any) -> Tiny:
    return deepened(request.param())


def test_fitted_steps_come_closer_than_forecasts(tiny: Tiny) -> None:
    paths = paths_of(tiny, 2)
    before = tiny.pipe.transformer.forward
    found = fit(ANCHORS, paths, tiny.pipe.transformer, lambda rule, clip: under(tiny, rule, clip))
    assert found is not None and found.anchors == ANCHORS
    assert [len(some) for some in found.weights] == [0, 2, 0, 3, 3]
    assert tiny.pipe.transformer.forward == before
    errors = []
    for plan in (usual(ANCHORS, STEPS), found):
        ends = []
        for seed in (0, 1):
            path = Path()
            under(tiny, Watched(served(plan), path), seed)
            ends.append(float((path.latents[-1] - paths[seed][-1]).square().mean()))
        errors.append(sum(ends))
    assert errors[1] < 0.81 * errors[0]


class Watched(StepRule):
    """Follows a rule, and keeps where the latent comes by."""

    least, listens = 1, True

    def __init__(self, rule: Planned, path: Path) -> None:
        self.rule, self.path, self.keeps = rule, path, 3

    def decide(self, now: Any) -> Any:
        return self.rule.decide(now)

    def ended(self, now: Any, *, computed: bool, steps: Any) -> None:
        self.path.ended(now, computed=computed, steps=steps)


def test_copies_of_the_scheduler_foretell_where_latents_come_by(tiny: Tiny) -> None:
    (path,) = paths_of(tiny, 1)
    plan = usual(ANCHORS, STEPS)
    rule = FittingRule(plan, STEPS, path)
    with pytest.raises(Enough):
        under(tiny, rule, 0)
    assert rule.error < 1e-4 and rule.moved is not None and rule.moved.shape[0] == 3
    wrong = FittingRule(Fitted(ANCHORS, ((), (5.0, 1.0), *plan.weights[2:])), STEPS, path)
    with pytest.raises(Enough):
        under(tiny, wrong, 0)
    assert wrong.error < 1e-4  # whatever the coefficients are


@pytest.mark.parametrize("scheduler", [DDPMScheduler(clip_sample=False), DDIMScheduler(clip_sample=True)])
def test_a_scheduler_that_draws_noise_or_clips_is_not_fitted(scheduler: Any) -> None:
    tiny = deepened(images.dit(scheduler))
    paths = paths_of(tiny, 1)
    assert fit(ANCHORS, paths, tiny.pipe.transformer, lambda rule, clip: under(tiny, rule, clip)) is None


def test_shares_are_of_the_last_anchors() -> None:
    plan = Fitted((0, 1, 4), ((), (0.5, 0.25), (3.0, 2.0, 1.0)))
    assert shares_at(plan, 2) == {1: 0.5, 0: 0.25} and shares_at(plan, 7) == {4: 3.0, 1: 2.0, 0: 1.0}
    assert torch.tensor(usual((0, 1, 4), 6).weights[2]).sum() == pytest.approx(1.0)
