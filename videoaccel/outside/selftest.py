"""A short run of a pipeline that shows whether methods hold on it: what is called, what is guided, what is exact."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videoaccel.adapters.attach import attach, networks_of, schedulers_of
from videoaccel.adapters.guidance_fit import Fit
from videoaccel.adapters.measured import Measured
from videoaccel.adapters.meter import Meter
from videoaccel.adapters.methods import available, plans
from videoaccel.adapters.report import Report
from videoaccel.adapters.rule import StepRule
from videoaccel.common.devices import cpu_threads
from videoaccel.common.stages import Listener, StageClock
from videoaccel.common.wording import counted
from videoaccel.generation.accelerate import accelerate
from videoaccel.outside.arguments import BINS, NAMES, Arguments
from videoaccel.outside.calls import called_with, seeded
from videoaccel.outside.find import require_outside
from videoaccel.outside.loading import load
from videoaccel.outside.order import resolve_outside, with_prompt
from videoaccel.outside.outputs import numbers_in
from videoaccel.session.policy import Policy
from videoaccel.session.registry import make_policy, policy_names
from videoaccel.settings.config import config_names
from videoaccel.settings.generate import GenerateSettings

STEPS = 10
"""Enough for forecasts, which need 8 evaluations."""

LADDER = ((64, 5), (128, 9), (256, 17), (512, None), (None, None))
"""Sides in pixels and frames that are tried one after the other; the last are the pipeline's own."""

TRIED = "fora"
"""The method of the run with forecasts: it needs nothing measured, and tries whether blocks' residual can be held."""


@dataclass(frozen=True)
class SelfTest:
    """What was seen.

    Attributes:
        pipeline: Its class.
        networks: Class and parameters of each denoiser.
        schedulers: Their classes.
        arguments: Numbers that it was called with.
        report: Of the run in which everything was computed, watched.
        guidance: How the value that the scheduler is given is made of the calls, in words; None if that was not found.
        exact: Whether that run gave the bits of a plain one.
        draws: Whether it left the random numbers as a plain one.
        forecast: Report of the run with forecasts.
        sound: Whether that gave numbers, and left the random numbers likewise.
        methods: By name, what can be had of each, or why nothing can.
        refused: Names of those that cannot be had.
    """

    pipeline: str
    networks: Mapping[str, tuple[str, int]]
    schedulers: tuple[str, ...]
    arguments: Mapping[str, Any]
    report: Report
    guidance: str | None
    exact: bool
    draws: bool
    forecast: Report
    sound: bool
    methods: Mapping[str, str]
    refused: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return self.exact and self.draws and self.sound

    def as_data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def self_test(settings: GenerateSettings, *, listener: Listener | None = None) -> SelfTest:
    """Load a pipeline, and run it three times: plainly, watched, and with forecasts.

    Args:
        settings: The model, and what its call needs; what they leave open is chosen as small as the pipeline takes it.
        listener: Told of the stages ``load`` and ``denoise``, which counts the runs.

    Raises:
        ValueError: It is no pipeline of diffusers, does not load, or takes no call of any size.
    """
    found = require_outside(settings)
    order = resolve_outside(with_prompt(settings, found), found)
    s = order.settings
    clock = StageClock(listener, device=str(s.device))
    with cpu_threads(s.threads), torch.no_grad():
        with clock.stage("load"):
            pipe = load(found, order.kind, s)
        with clock.stage("denoise", total=3) as step:
            arguments, plain = _smallest(pipe, order.told(pipe), s)
            step()
            segments: list[Measured] = []
            meter = Meter(segments.extend)
            meter.on = True
            with attach(pipe, StepRule, method="off", observers=[meter]) as off:
                watched = _run(pipe, arguments, s)
                report = off.report()
            step()
            with accelerate(pipe, TRIED) as fast, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the report says it
                served = _run(pipe, arguments, s)
                forecast = fast.report()
            step()
        return _told(pipe, arguments, segments, (plain, watched, served), (report, forecast))


@dataclass(frozen=True)
class _Outcome:
    """What a call gave, and what it left behind."""

    values: Sequence[NDArray[Any]]
    draws: Sequence[Tensor]

    def equals(self, other: _Outcome) -> bool:
        pairs = zip(self.values, other.values, strict=False)
        return len(self.values) == len(other.values) and all(np.array_equal(one, two) for one, two in pairs)

    def drew(self, other: _Outcome) -> bool:
        return all(torch.equal(one, two) for one, two in zip(self.draws, other.draws, strict=True))

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(value).all()) for value in self.values)


def _smallest(pipe: Any, told: Arguments, s: GenerateSettings) -> tuple[Arguments, _Outcome]:
    """Arguments as small as the pipeline takes them, and what it gave for them."""
    names = told.signature.defaults
    frames = told.signature.first(NAMES["frames"])
    problem: Exception | None = None
    tried: list[dict[str, Any]] = []
    for side, count in LADDER:
        more: dict[str, Any] = {"num_inference_steps": STEPS} if "num_inference_steps" in names else {}
        if side is not None and {"height", "width"} <= names.keys():
            more |= {"height": side, "width": side}
            if BINS in names:  # which would make a large picture of any small one
                more[BINS] = False
        if count is not None and frames is not None:
            more[frames] = count
        if told.signature.defaults.get("output_type") == "pil":  # whose bytes round small differences away
            more["output_type"] = "np"
        values = {**more, **told.values}
        if values in tried:
            continue
        tried.append(values)
        arguments = Arguments(values, told.prompt, told.signature, told.labels)
        try:
            return arguments, _run(pipe, arguments, s)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a pipeline says to a size that it does not take
            problem = problem or error
    raise ValueError(f"{told.signature.kind} took no call: {' '.join(str(problem).split())[:300]}") from problem


def _run(pipe: Any, arguments: Arguments, s: GenerateSettings) -> _Outcome:
    call = called_with(arguments, s.prompt[0] if s.prompt else None, seed=s.seed)
    with seeded(s.seed):
        result = pipe(**call)
        states = [torch.get_rng_state()]
    if isinstance(generator := call.get("generator"), torch.Generator):
        states.append(generator.get_state())
    return _Outcome(numbers_in(result), states)


def _told(
    pipe: Any,
    arguments: Arguments,
    segments: Sequence[Measured],
    outcomes: tuple[_Outcome, _Outcome, _Outcome],
    reports: tuple[Report, Report],
) -> SelfTest:
    plain, watched, served = outcomes
    report, forecast = reports
    methods, refused = _methods(pipe, arguments, forecast)
    return SelfTest(
        pipeline=arguments.signature.kind,
        networks={name: (type(part).__name__, _parameters(part)) for name, part in networks_of(pipe).items()},
        schedulers=tuple(type(scheduler).__name__ for scheduler in schedulers_of(pipe)),
        arguments={name: value for name, value in arguments.values.items() if isinstance(value, bool | int | float)},
        report=report,
        guidance=guidance_text(segments[0].fits, report) if segments else None,
        exact=bool(plain.values) and watched.equals(plain),
        draws=watched.drew(plain),
        forecast=forecast,
        sound=served.finite and served.drew(plain),
        methods=methods,
        refused=refused,
    )


def guidance_text(fits: Sequence[Fit | None], report: Report) -> str | None:
    """How the scheduler's value is made of the calls, in words; None if no weights were found.

    Args:
        fits: Of every evaluation.
        report: Names the calls.
    """
    known = [one for one in fits if one is not None]
    if not known or not all(one.holds for one in known):
        return None
    if any(one.alike for one in known):
        return "branches that say the same, so that their weights mean nothing"
    runs: list[tuple[str, int]] = []
    for one in known:
        text = _sum(one.weights, report)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    if len(runs) > 3:
        return f"weights that change on the way, from {runs[0][0]} to {runs[-1][0]}"
    return (
        runs[0][0]
        if len(runs) == 1
        else ", then ".join(f"{text} ({counted(count, 'evaluation')})" for text, count in runs)
    )


def _sum(weights: Sequence[float], report: Report) -> str:
    names = [stream.context or f"call {number + 1}" for number, stream in enumerate(report.streams)]
    if len(names) != len(weights):  # branches in a batch, or calls of some evaluations only
        names = [f"part {number + 1}" for number in range(len(weights))]
    return " ".join(f"{weight:+.3g} x {name}" for weight, name in zip(weights, names, strict=True))


def _methods(pipe: Any, arguments: Arguments, forecast: Report) -> tuple[dict[str, str], tuple[str, ...]]:
    """By name what can be had; and the names of those that cannot."""
    said: dict[str, str] = {}
    refused = []
    nothing = forecast.calls == forecast.calls_computed
    why = ", ".join(forecast.reasons or forecast.due)
    for name in policy_names():
        if name not in available():
            said[name] = "has to look into the network"
        elif name == "fewer_steps" and "num_inference_steps" not in arguments.signature.defaults:
            said[name] = "the call takes no num_inference_steps"
        elif nothing and name not in ("off", "fewer_steps"):
            said[name] = f"would compute everything: {why}"
        else:
            try:
                accelerate(pipe, name).remove()
            except ValueError as error:
                said[name] = str(error)
            else:
                said[name] = _had(make_policy(name), forecast)
                continue
        refused.append(name)
    return said | ({} if nothing else _boxed(pipe)), tuple(refused)


def _had(policy: Policy, forecast: Report) -> str:
    """What to say of a method that can be had: of one that serves a residual, of which."""
    if plans(policy):
        return "can be had; errors are measured first"
    return f"can be had; residual: {forecast.residual}" if hasattr(policy, "residual") else "can be had"


def _boxed(pipe: Any) -> dict[str, str]:
    """Configurations in the box that can be had, by what they are called in reports."""
    found = {}
    for name in config_names("accel"):
        try:
            with accelerate(pipe, name) as fast:
                found[fast.method] = "can be had"
        except ValueError:  # said of the method itself
            continue
    return found


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
