"""What a method would do on a pipeline of diffusers. Two evaluations of it are run, to see its course; no more.

Shape legend: N evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videoaccel.adapters.attach import networks_of
from videoaccel.adapters.curves import for_course, rule_of
from videoaccel.adapters.lessons import Of
from videoaccel.adapters.methods import plans, rule_from, rules_of, schedule_of, tables_of
from videoaccel.adapters.pipeline_priors import NoPriorError, check_tables, find, fitting
from videoaccel.adapters.rule import Course, Evaluation, Refused, RuleMaker, Serve, StepRule
from videoaccel.adapters.swap import original
from videoaccel.adapters.whole_call import schedule_of_all
from videoaccel.common.devices import cpu_threads
from videoaccel.common.stages import Listener, StageClock
from videoaccel.generation.accelerate import accelerate
from videoaccel.outside.calls import called_with, seeded, worded
from videoaccel.outside.find import Found
from videoaccel.outside.loading import load
from videoaccel.outside.order import OutsideOrder, resolve_outside, with_prompt
from videoaccel.outside.signature import check_calls
from videoaccel.planning.fitted import QUALITY, instead
from videoaccel.planning.prior import Prior
from videoaccel.preview.course import Peek, course_of
from videoaccel.preview.outside_plan import Foretold, OutsidePlan
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, make_policy, named_method
from videoaccel.settings.generate import GenerateSettings


class Wanted(NamedTuple):
    """What is to be planned: the method, and what it plans from."""

    policy: Policy
    prior: Prior | str | Path | None = None
    foreign: bool = False
    of: Of = "denoiser"


def plan_outside(settings: GenerateSettings, found: Found, *, listener: Listener | None = None) -> OutsidePlan:
    """Show what a generation by a pipeline of diffusers would do.

    Args:
        settings: Those of the generation; a prompt is not needed.
        found: The pipeline.
        listener: Told of the stages ``load`` and ``plan``.

    Raises:
        ValueError: No method is named, its errors were not measured, or its target cannot be reached.
    """
    order = resolve_outside(with_prompt(settings, found), found)
    if order.policy is None:
        raise ValueError("there is nothing to plan without a method; name one, such as `accel=soda`")
    s = order.settings
    clock = StageClock(listener, device=str(s.device))
    with cpu_threads(s.threads), torch.no_grad():
        with clock.stage("load"):
            pipe = load(found, order.kind, s)
        with clock.stage("plan"):
            return _foretold(pipe, _wanted(order), _seen_of(pipe, order))


def check_outside(order: OutsideOrder, pipe: Any = None, *, listener: Listener | None = None) -> Any:
    """Make sure that an order's method can plan: its errors were measured, and its target can be reached.

    Args:
        order: Resolved.
        pipe: The pipeline, if it is loaded already.
        listener: Told of the stages ``load`` and ``plan``.

    Returns:
        The pipeline; None if it was not needed.

    Raises:
        ValueError: It cannot.
    """
    if order.policy is None or not plans(order.policy):
        return pipe
    s = order.settings
    clock = StageClock(listener, device=str(s.device))
    with cpu_threads(s.threads), torch.no_grad():
        if pipe is None:
            with clock.stage("load"):
                pipe = load(order.found, order.kind, s)
        with clock.stage("plan"):
            _planned(pipe, _wanted(order), _seen_of(pipe, order))
    return pipe


def plan_pipeline(
    pipe: Any,
    method: str,
    call: Mapping[str, Any],
    *,
    prior: Prior | str | Path | None = None,
    foreign_prior: bool = False,
    of: Of = "denoiser",
    **fields: Any,
) -> OutsidePlan:
    """Show what a method would do in one call of a pipeline of diffusers; runs two evaluations of it.

    Args:
        pipe: The pipeline, with nothing attached.
        method: Name of a method, or of a configuration in the box, or a YAML file.
        call: Arguments of the call, by name.
        prior: Measured errors, or their file; default those found for the pipeline and the call.
        foreign_prior: Take a prior that was measured for other arguments of the call.
        of: What a ``speedup`` is of, see :func:`videoaccel.accelerate`.
        **fields: Fields of the method.

    Raises:
        ValueError: The method cannot be had, its errors were not measured, or its target cannot be reached.
        FileNotFoundError: The prior's file is not there.
    """
    if not isinstance(call, Mapping):
        raise ValueError(f"call is the arguments of a call by name, such as {{'prompt': 'a cat'}}, got {call!r:.60}")
    check_calls(pipe, {"call": call})
    name, of_file = named_method(method)
    policy = make_policy(name, **beside_file(of_file, fields))
    # Whether it can be had, with this prior, is said as there.
    told = beside_file(of_file, fields)
    accelerate(pipe, name, prior=prior, foreign_prior=foreign_prior, of=of, **told).remove()
    with torch.no_grad(), seeded(0), worded(original(type(pipe)).__name__):
        return _foretold(pipe, Wanted(policy, prior, foreign_prior, of), course_of(pipe, call))


def _wanted(order: OutsideOrder) -> Wanted:
    s = order.settings
    assert order.policy is not None
    return Wanted(order.policy, s.prior, s.allow_foreign_prior, s.speedup_of or "denoiser")


def _foretold(pipe: Any, wanted: Wanted, seen: Peek) -> OutsidePlan:
    return _planned(pipe, wanted, seen) if plans(wanted.policy) else _simulated(pipe, wanted.policy, seen)


def _seen_of(pipe: Any, order: OutsideOrder) -> Peek:
    s = order.settings
    with seeded(s.seed), worded(order.kind.__name__):
        return course_of(pipe, called_with(order.told(pipe), s.prompt[0] if s.prompt else None, seed=s.seed))


def _planned(pipe: Any, wanted: Wanted, seen: Peek) -> OutsidePlan:
    policy, course = wanted.policy, seen.course
    assert course is not None
    prior = _prior(wanted, seen.setting)
    share = prior.info.get("share")
    check_tables(prior, tables_of(policy))
    if rule_from(policy) is not None:
        return OutsidePlan(
            pipeline=original(type(pipe)).__name__,
            method=policy.name,
            fields=policy.model_dump(mode="json"),
            evaluations=(),
            prior=None if prior.path is None else str(prior.path),
            generations=max(prior.samples.values(), default=0),
            share=share,
        )
    if wanted.of == "all":
        if share is None:
            raise ValueError("nothing says what share of the time is the networks'; calibrate measures it")
        schedule = schedule_of_all(policy, share)
    else:
        schedule = schedule_of(policy)
    tables = for_course(prior.tables, course)
    schedule(tables, course.n)  # a target that cannot be reached is said
    names = prior.info["networks"]
    components = [names[int(number)] for number in tables["component"].tolist()]
    evaluations = _evaluations(rule_of(schedule, prior.tables, names), course, components)
    computed = sum(one.order is None for one in evaluations)
    return OutsidePlan(
        pipeline=type(pipe).__name__,
        method=policy.name,
        fields=policy.model_dump(mode="json"),
        evaluations=_with_errors(evaluations, tables),
        prior=None if prior.path is None else str(prior.path),
        generations=max(prior.samples.values(), default=0),
        share=share,
        psnr=_psnr(prior, course.n, computed),
        worst=_worst(prior, course.n, computed),
        instead=instead(prior.tables, computed, steps=course.n),
    )


def _simulated(pipe: Any, policy: Policy, seen: Peek) -> OutsidePlan:
    """Of a method that needs nothing measured: by asking its rule, unless that wants to see what comes."""
    course = seen.course
    assert course is not None
    maker = rules_of(policy)
    note = None
    if isinstance(maker, RuleMaker):
        maker.begins(seen.arguments)
        note = maker.note
    rule, names = maker(), list(networks_of(pipe))
    foretold = not rule.listens and note is None and len(names) == 1
    if len(names) > 1 and not rule.listens:
        note = "where the second network takes over is seen only when it runs"
    return OutsidePlan(
        pipeline=type(pipe).__name__,
        method=policy.name,
        fields=policy.model_dump(mode="json"),
        evaluations=tuple(_evaluations(rule, course, names * course.n)) if foretold else (),
        note=note,
    )


def _evaluations(rule: StepRule, course: Course, components: Sequence[str]) -> list[Foretold]:
    """What a rule says to every evaluation; errors are not in it."""
    found: list[Foretold] = []
    nth: dict[str, int] = {}
    certain = Course(course.times, course.sigmas, course.places, True, course.scheduler)
    first = Course(course.times, course.sigmas, course.places, False, course.scheduler)
    for i in range(course.n):
        component = components[i]
        nth[component] = nth.get(component, -1) + 1
        said = rule.decide(Evaluation(i, component, nth[component], i, certain if i else first))
        if isinstance(said, Refused):
            raise ValueError(said.reason)
        found.append(_served(component, said) if isinstance(said, Serve) else Foretold(component, None))
    return found


def _served(component: str, said: Serve) -> Foretold:
    if said.weights is None:
        return Foretold(component, said.order)
    shares = list(said.weights.values())  # a single output, whole, is held
    return Foretold(component, len(shares) - 1, fitted=shares != [1.0])


def _prior(wanted: Wanted, setting: Mapping[str, Any]) -> Prior:
    """The errors that a generation would plan with.

    Raises:
        ValueError: None were measured, or those that are given do not fit.
    """
    if (given := Prior.given(wanted.prior)) is not None:
        return fitting(given, setting, foreign=wanted.foreign)
    found, near = find(setting, foreign=wanted.foreign, needs=tables_of(wanted.policy))
    if found is not None:
        return found
    raise NoPriorError(near, "videoaccel calibrate measures one, and so do the first clips of videoaccel generate")


def _with_errors(evaluations: Sequence[Foretold], tables: Mapping[str, Tensor]) -> tuple[Foretold, ...]:
    """The same with the errors that were measured: of forecasts, none of what is computed or fitted."""
    found: list[Foretold] = []
    last: dict[str, int] = {}
    table = tables["soda.velocity"]
    for i, one in enumerate(evaluations):
        if one.order is None:
            last[one.component] = i
        if one.order is None or one.fitted:
            found.append(one)
            continue
        age = i - last[one.component]
        known = age <= table.shape[2] and math.isfinite(float(table[i, one.order, age - 1]))
        found.append(replace(one, error=math.sqrt(float(table[i, one.order, age - 1])) if known else None))
    return tuple(found)


def _psnr(prior: Prior, count: int, computed: int) -> float | None:
    """Expected PSNR, if it was measured for so many evaluations."""
    curve = prior.tables.get("soda.psnr")
    if curve is None or len(curve) != count or math.isnan(float(curve[computed - 1])):
        return None
    return float(curve[computed - 1])


def _worst(prior: Prior, count: int, computed: int) -> float | None:
    """PSNR of the worst clip, by the plan of so many evaluations that kept most on average."""
    quality = prior.tables.get(QUALITY)
    if quality is None or len(quality) != count or bool(quality[computed - 1, :, 0].isnan().all()):
        return None
    mean, worst, _ = quality[computed - 1].unbind(1)
    return float(worst[mean.nan_to_num(-math.inf).argmax()])
