"""Plans of pipelines of diffusers, as they are told."""

from dataclasses import replace

import torch

from videoaccel.adapters.planned import OutputPlan, planned
from videoaccel.adapters.rule import Course
from videoaccel.planning.forecast_errors import AGES, ORDERS
from videoaccel.preview.outside import _evaluations, _with_errors
from videoaccel.preview.outside_plan import Foretold, OutsidePlan

NAME = "transformer"


def evaluations() -> tuple[Foretold, ...]:
    """Computed, forecast, held and fitted ones."""
    steps = (None, None, 1, None, {3: 1.0}, {3: 1.5, 1: -0.75}, {3: 0.9}, {3: 1.5, 1: -0.75})
    rule = planned(OutputPlan({NAME: steps}))()
    course = Course(tuple(range(len(steps), 0, -1)))
    tables = {"soda.velocity": torch.full((len(steps), ORDERS, AGES), 0.04)}
    return _with_errors(_evaluations(rule, course, [NAME] * len(steps)), tables)


def test_fitted_evaluations_say_so() -> None:
    found = evaluations()
    ways = ["computed", "computed", "forecast of order 1", "computed", "held"]
    assert [one.how for one in found] == [
        *ways, "fitted from 2 outputs", "fitted from 1 output", "fitted from 2 outputs"
    ]  # fmt: skip
    errors = [None if one.error is None else round(one.error, 6) for one in found]
    assert errors == [None, None, 0.2, None, 0.2, None, None, None], "of a fitted one it was not measured"


def test_a_plan_is_printed_in_lines() -> None:
    plan = OutsidePlan("WanPipeline", "soda", {"speedup": 2.0}, evaluations(), psnr=33.0, worst=30.0, share=0.9)
    assert str(plan).splitlines()[0].endswith(" on WanPipeline")
    assert str(plan).splitlines()[1:] == [
        "  predicted: 2.67x fewer evaluations of the networks, 2.29x of a whole call (90% is the networks')",
        "  expected quality: 33.0 dB PSNR to the plain clip, calibration clips' mean, 30.0 the worst",
        "  computed: 3 of 8: 0-1, 3",
        "  held: 4, expected errors up to 0.2",
        "  fitted from 1 output: 6",
        "  forecast of order 1: 2, expected errors up to 0.2",
        "  fitted from 2 outputs: 5, 7",
    ]
    assert repr(plan).startswith("<OutsidePlan soda on WanPipeline: 3 of 8 evaluations computed, 2.67x fewer")
    assert repr(plan).endswith(", 33.0 dB expected>")
    assert repr(replace(plan, evaluations=())) == "<OutsidePlan soda on WanPipeline: it decides while it runs>"
    assert plan.as_data()["evaluations"][5]["fitted"] and not plan.as_data()["evaluations"][4]["fitted"]
