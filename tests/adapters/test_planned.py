"""Schedules made beforehand."""

from typing import Any

import pytest

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from videoaccel.adapters.attach import attach
from videoaccel.adapters.planned import OutputPlan, planned
from videoaccel.adapters.rule import Evaluation, Refused, StepRule
from videoaccel.generation.accelerate import accelerate


def test_a_plan_by_network_is_followed() -> None:
    tiny = videos.wan_two()
    with attach(tiny.pipe, StepRule, method="off") as off:
        tiny(steps=20)
        rows = off.report().streams
    first = next(row.computed for row in rows if row.component == "transformer")
    counts = {"transformer": first, "transformer_2": 20 - first}
    plan = OutputPlan.of({"transformer": [0, 1, 4], "transformer_2": [0, 3, 5]}, counts)
    attached = attach(tiny.pipe, planned(plan), method="soda")
    assert tiny(steps=20).finite()
    assert attached.computed == [0, 1, 4, first, first + 3, first + 5]
    assert plan.computed == {"transformer": (0, 1, 4), "transformer_2": (0, 3, 5)} and plan.evaluations == 20


def test_a_plan_that_says_what_fixed_linear_does_gives_its_bits() -> None:
    tiny = videos.wan()
    with accelerate(tiny.pipe, "fixed_linear"):
        expected = tiny()
    plan = OutputPlan.of({"transformer": [0, 1, 3, 5, 7, 9, 11]}, {"transformer": 12})
    with attach(tiny.pipe, planned(plan), method="soda"):
        assert tiny().equals(expected)
    steps: list[Any] = [None, None, {1: 2.0, 0: -1.0}, None, {3: 1.5, 1: -0.5}, None]
    steps += [{5: 1.5, 3: -0.5}, None, {7: 1.5, 5: -0.5}, None, {9: 1.5, 7: -0.5}, None]
    by_shares = OutputPlan({"transformer": tuple(steps)})
    assert by_shares.keeps == plan.keeps == 2
    with attach(tiny.pipe, planned(by_shares), method="soda"):
        assert tiny().equals(expected)


def test_a_plan_may_reach_back_and_be_along_the_timesteps() -> None:
    tiny = images.flux()
    plan = OutputPlan({"transformer": (None, 0, None, None, {0: 0.5, 3: 0.5}, 2, 2, None)}, axis="time")
    assert plan.keeps == 3
    attached = attach(tiny.pipe, planned(plan), method="soda")
    assert tiny(steps=8).finite() and attached.computed == [0, 2, 3, 7]


def test_a_plan_for_other_evaluations_is_refused() -> None:
    tiny = images.flux()
    plain = tiny()
    first = attach(tiny.pipe, planned(OutputPlan.of({"transformer": [0]}, {"transformer": 10})), method="soda")
    with pytest.warns(UserWarning, match="soda computed all of .*: the plan is for 10 evaluations, here are 12"):
        assert tiny().equals(plain)
    first.remove()
    attach(tiny.pipe, planned(OutputPlan.of({"unet": [0]}, {"unet": 12})), method="soda")
    with pytest.warns(UserWarning, match="the plan has 0 evaluations of transformer"):
        assert tiny().equals(plain)
    with pytest.raises(ValueError, match="evaluation 0 of unet builds on 0, which is not computed before it"):
        OutputPlan({"unet": (0, 0)})


def test_a_plan_may_be_made_when_the_evaluations_are_known() -> None:
    seen: list[Evaluation] = []

    def plan(now: Evaluation) -> OutputPlan | Refused:
        seen.append(now)
        return OutputPlan.of({"transformer": range(0, now.n, 3)}, {"transformer": now.n}, order=0)

    tiny = videos.wan_from_video()
    attached = attach(tiny.pipe, planned(plan), method="soda")
    tiny()
    assert attached.computed == [0, 3, 6]
    (now,) = seen
    assert (now.i, now.n, now.course.places[0]) == (1, 9, 3) and now.course.sigmas is not None
