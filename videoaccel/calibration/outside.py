"""Calibrating pipelines that are not ours: full generations watched, and what is left of them at fewer calls.

Shape legend: N evaluations.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videoaccel.adapters.attach import attach, attachment_of, takes_attachments
from videoaccel.adapters.blocks import MIDDLE, MODULATED
from videoaccel.adapters.call_setting import setting_of_call, with_latents
from videoaccel.adapters.measured import Measured
from videoaccel.adapters.meter import Meter
from videoaccel.adapters.pipeline_priors import kept_at, made
from videoaccel.adapters.refusals import FEWEST
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.calibration.outside_curve import Known, drawn, fits, kept_tables, pixels
from videoaccel.common.files import check_file
from videoaccel.common.stages import Listener
from videoaccel.common.wording import counted
from videoaccel.outside.signature import check_calls
from videoaccel.parallel.comm import Comm
from videoaccel.planning.prior import Prior

LEAST_FITTED, MOST_FITTED = 4, 16
"""Generations on which steps are fitted unasked: at least, and at most."""


class _Watch(RuleMaker):
    """Computes everything, and remembers for what it was called."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(StepRule, watches=(MODULATED, MIDDLE))
        self._pipe, self.settings, self.shares = pipe, [], []  # type: ignore[var-annotated]

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.settings.append(setting_of_call(self._pipe, arguments))
        return {}

    def sees(self, size: str) -> bool:
        self.settings[-1] = with_latents(self.settings[-1], size)
        return False

    def ends(self, *, seconds: float, in_networks: float, failed: bool) -> str | None:
        self.shares.append(in_networks / max(seconds, 1e-9))
        return None


class _Run(NamedTuple):
    """What was measured in a call: for what, in each segment, of which networks, and their share of the time."""

    number: int
    setting: Mapping[str, Any]
    tables: list[dict[str, Tensor]]
    networks: tuple[str, ...]
    share: float


class _Take:
    """A call that can be made again with the same random numbers, those of the global generator included."""

    def __init__(self, call: Mapping[str, Any]) -> None:
        self._call = dict(call)
        self._drawn = {name: _states(value) for name, value in call.items() if _states(value)}
        self._global: Tensor | None = None

    def arguments(self) -> dict[str, Any]:
        """Of the call, with generators as they were at first."""
        if self._global is None:
            self._global = torch.get_rng_state()
        torch.set_rng_state(self._global)
        for name, states in self._drawn.items():
            for generator, state in zip(_generators(self._call[name]), states, strict=True):
                generator.set_state(state)
        return self._call


def _generators(value: Any) -> list[torch.Generator]:
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, torch.Generator)]


def _states(value: Any) -> list[Tensor]:
    return [generator.get_state() for generator in _generators(value)]


def calibrate_pipeline(
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    *,
    out: str | Path | None = None,
    curve: int | None = None,
    fit: int | None = None,
    listener: Listener | None = None,
    ranks: Comm | None = None,
) -> Prior:
    """Measure a pipeline of diffusers, and write the prior.

    Args:
        pipe: The pipeline.
        calls: Arguments of its call, one generation each: other prompts and seeds, the same size, length, guidance.
        out: The file; default one in the user's cache, where it is found for such calls.
        curve: On how many of the calls the quality that is left is measured, so that ``min_psnr`` can be asked for, and
            by which plans are chosen; default 2, of 8 calls or more 4, of more than 12 a third.
        fit: On how many of the other calls SODA's served steps are fitted, 0 for none; default up to 16 of them, if
            there are 4. Needs the quality to be measured, and one network.
        listener: Told of the stages ``measure`` and ``curve``, which count this process's generations, and ``fit``,
            which counts budgets.
        ranks: That measure together, each the next call with a pipeline of its own; all give the same calls, the first
            writes. Default: this process alone.

    Returns:
        The prior; its ``path`` says where it is.

    Raises:
        ValueError: The pipeline has no denoiser that is known, nothing could be measured, or the calls are of
            different kinds.
        OSError: The file cannot be written.
    """
    ranks = ranks or Comm.lone()
    _check(pipe, calls, curve=curve, fit=fit, out=out)
    curve = _judging(len(calls), curve)
    tell = listener or (lambda stage, done, total: None)
    takes = {number: _Take(call) for number, call in enumerate(calls) if number % ranks.size == ranks.rank}
    own, results = _measure(pipe, takes, {*range(curve)}, tell)
    runs = sorted((run for found in ranks.each(own) for run in found), key=lambda run: run.number)
    if any(run.setting != runs[0].setting for run in runs):
        raise ValueError("the calls are of different kinds: size, length and guidance must be the same for all")
    tables = [table for run in runs for table in run.tables]
    share = sum(run.share for run in runs) / len(runs)
    prior = made(runs[0].setting, tables, runs[0].networks, share=share)
    if curve > 0:
        others = [take.arguments for number, take in takes.items() if number not in results]
        own_fits = fits(pipe, prior, others[: _wanted(fit, len(others))], tell) if ranks.rank == 0 else {}
        fitted = ranks.same(own_fits)
        again = {number: Known(takes[number].arguments, exact) for number, exact in results.items()}
        found = [row for known in ranks.each(drawn(pipe, prior, again, fitted, tell)) for row in known.items()]
        more = kept_tables([row for _, row in sorted(found)], len(prior.tables["levels"]), fitted)
        prior = made(runs[0].setting, tables, runs[0].networks, share=share, more=more)
    return _written(prior, out, ranks)


def _check(pipe: Any, calls: Any, *, curve: Any, fit: Any, out: Any) -> None:
    """Find out, before the first call, whether what is told can be done.

    Raises:
        ValueError: Says what cannot.
    """
    if not calls:
        raise ValueError("there is no call to measure; give at least one, such as calls=[{'prompt': 'a cat'}]")
    listed = isinstance(calls, list | tuple)
    for call in calls if listed else (calls,):
        if not listed or not isinstance(call, Mapping) or not all(isinstance(name, str) for name in call):
            raise ValueError(
                f"calls is a list of arguments by name, such as calls=[{{'prompt': 'a cat'}}], got {call!r:.60}"
            )
    if not takes_attachments(pipe):
        raise ValueError(f"{type(pipe).__name__} has no denoiser that is known")
    if attachment_of(pipe) is not None:
        raise ValueError("the pipeline is accelerated; remove() that first")
    check_calls(pipe, {f"calls[{number}]": call for number, call in enumerate(calls)})
    for name, count in (("curve", 0 if curve is None else curve), ("fit", 0 if fit is None else fit)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"{name} is a number of calls, 0 for none, got {count!r}")
    check_fit(fit, of=len(calls), curve=curve)
    if out is not None:
        if not isinstance(out, str | Path):
            raise ValueError(f"out is the name of a file, got {out!r}")
        check_file(out)


def check_fit(fit: int | None, *, of: int, curve: int | None) -> None:
    """Find out whether steps can be fitted on so many of the calls, if that is asked for.

    Raises:
        ValueError: There are fewer, or nothing would say what fitted steps keep.
    """
    judging = _judging(of, curve)
    if fit and not judging:
        raise ValueError(f"steps are fitted where the quality that is left is measured; fit={fit} needs a curve")
    left = max(0, of - judging)
    if fit and fit > left:
        raise ValueError(
            f"steps cannot be fitted on {counted(fit, 'call')}: of {of} the first {min(judging, of)} say what is kept, "
            f"so {left} are left; measure more"
        )


def _judging(calls: int, curve: int | None) -> int:
    """On how many calls the quality that is left is measured."""
    return (max(4, calls // 3) if calls >= 8 else 2) if curve is None else curve


def _wanted(fit: int | None, others: int) -> int:
    """On how many generations steps are fitted."""
    return (min(others, MOST_FITTED) if others >= LEAST_FITTED else 0) if fit is None else fit


def _written(prior: Prior, out: str | Path | None, ranks: Comm) -> Prior:
    """The prior with its path; of several ranks the first writes it."""
    path: Path = ranks.same(kept_at(prior.setting) if out is None else Path(out))
    if ranks.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        prior.save(path)
    return Prior(prior.setting, prior.tables, prior.samples, prior.info, path)


def _not_worth_it(evaluations: int, reason: str) -> str:
    """What to say of a generation in which nothing may be forecast."""
    if evaluations < FEWEST:
        return f"a generation of {counted(evaluations, 'evaluation')} cannot be forecast: measure at least {FEWEST}"
    return f"there is nothing to measure where everything is computed: {reason}"


def _measure(
    pipe: Any, takes: Mapping[int, "_Take"], kept: Collection[int], tell: Callable[[str, int, int], None]
) -> tuple[list["_Run"], dict[int, Tensor]]:
    """What calls tell about forecasts, and what some of them returned, by number.

    Raises:
        ValueError: Nothing could be measured.
    """
    measured: list[Measured] = []
    meter, watch = Meter(measured.extend), _Watch(pipe)
    meter.on = True
    runs: list[_Run] = []
    results: dict[int, Tensor] = {}
    with attach(pipe, watch, method="off", observers=[meter]):
        for done, (number, take) in enumerate(takes.items()):
            tell("measure", done, len(takes))
            measured.clear()
            result = pipe(**take.arguments())
            if number in kept:
                results[number] = pixels(result)
            if not measured:
                raise ValueError(
                    "nothing could be measured: no scheduler stepped, or its steps do not follow its calls"
                )
            if meter.refused is not None:
                raise ValueError(_not_worth_it(len(measured[0].levels), meter.refused))
            networks = tuple(dict.fromkeys(measured[0].components))
            runs.append(
                _Run(number, watch.settings[-1], [one.tables() for one in measured], networks, watch.shares[-1])
            )
            if runs[-1].setting != runs[0].setting:
                break  # which is told when all ranks have told theirs
    tell("measure", len(takes), len(takes))
    return runs, results
