"""Rules of methods that plan from measured errors: those of a prior, or of the first generations, which are exact.

A pipeline tells for what it is called only when it is called, so a prior is looked for then. Without one the first
generations are computed whole and measured; what came of it is kept for next time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor

from videoaccel import __version__
from videoaccel.adapters.call_setting import Identities, differences, is_of_another, setting_of_call, with_latents
from videoaccel.adapters.curves import Plans
from videoaccel.adapters.measured import Measured, averaged
from videoaccel.adapters.meter import Meter
from videoaccel.adapters.refusals import FEWEST
from videoaccel.adapters.rule import Computed, RuleMaker, StepRule
from videoaccel.common.home import cache_folder, kept_nowhere
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import counted
from videoaccel.parallel.mesh import rank_here
from videoaccel.planning.fitted import QUALITY
from videoaccel.planning.prior import KINDS, PIPELINE, Prior, priors_on_shelf

MeasuredRule = Callable[[float | None, Mapping[str, Tensor], Sequence[str], Plans], StepRule]
"""See :class:`Lessons`."""

Of = Literal["denoiser", "all"]
"""Whose time a speed-up is of."""


class NoPriorError(ValueError):
    """There is no prior for a call, and none shall be made of the first generations.

    Args:
        near: For what the nearest was measured; empty if there is none.
        advice: What can be done.
    """

    def __init__(self, near: str, advice: str) -> None:
        known = f"; the nearest was measured for {near}" if near else ""
        super().__init__(f"there is no prior of this pipeline for this call{known}; {advice}")
        self.near = near


@dataclass
class Lesson:
    """What is known for one kind of call.

    Attributes:
        setting: See :func:`videoaccel.adapters.call_setting.setting_of_call`.
        prior: Measured errors; None as long as they are being measured.
        tables: Of the generations measured so far.
        networks: Names of the networks, in the order of the table ``component``.
        shares: Of each, the networks' share of the whole time.
        plans: That have been made from the prior.
    """

    setting: Mapping[str, Any]
    prior: Prior | None = None
    tables: list[dict[str, Tensor]] = field(default_factory=list)
    networks: tuple[str, ...] = ()
    shares: list[float] = field(default_factory=list)
    plans: Plans = field(default_factory=dict)


class Lessons(RuleMaker):
    """Makes the rules of a pipeline's segments.

    Args:
        pipe: The pipeline.
        rule: Makes a segment's rule from tables and networks' names, given the networks' share of the time (None if
            that is not known) and the plans that have been made from the same.
        prior: Use this one; it has to fit.
        foreign: Take a prior that was measured for other arguments of the call.
        clips: How many generations are measured where there is no prior; 0 refuses instead.
        needs_share: The target is of the whole time, so the share has to be known.
        watches: Signals of blocks that have to be measured, or that rules want.
        needs: Tables that a prior must have.
    """

    def __init__(
        self,
        pipe: Any,
        rule: MeasuredRule,
        *,
        prior: Prior | None = None,
        foreign: bool = False,
        clips: int = 4,
        needs_share: bool = False,
        watches: Iterable[str] = (),
        needs: Sequence[str] = (),
    ) -> None:
        self._pipe, self._rule, self._needs = ref(pipe), rule, tuple(needs)
        self.watches = frozenset(watches)
        self._given, self._foreign, self._clips, self._needs_share = prior, foreign, clips, needs_share
        self._known: dict[str, Lesson] = {}
        self._now: Lesson | None = None
        self._setting: Mapping[str, Any] = {}
        self._seen = False
        self._identities = Identities()
        self.meter = Meter(self._measured)
        check_tables(self._given, self._needs)

    def begins(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`RuleMaker.begins`.

        Raises:
            ValueError: There is no prior and nothing shall be measured, or the prior that was given does not fit.
        """
        self._setting = setting_of_call(self._pipe(), arguments, identities=self._identities)
        key = _key(self._setting)
        if key not in self._known:
            self._known[key] = self._looked_up(self._setting)
        self._take(self._known[key])
        return {}

    def sees(self, size: str) -> bool:
        """See :meth:`RuleMaker.sees`. The size of a call that leaves it open is known by now.

        Raises:
            ValueError: See :meth:`begins`.
        """
        setting = with_latents(self._setting, size)
        key, lesson = _key(setting), self._now
        if lesson is None or setting == self._setting:
            return False
        if key not in self._known:
            fits = lesson.setting.get("latents") in (None, size)
            if lesson.prior is not None:
                fits = not differences(lesson.prior.setting, setting)
            elif fits:
                lesson.setting = setting
            self._known[key] = lesson if fits else self._looked_up(setting)
        if self._known[key] is lesson:
            return False
        self._known[_key(self._setting)] = self._known[key]  # the next such call is more likely to be like this one
        self._take(self._known[key])
        self.meter.began()
        return True

    def _take(self, lesson: Lesson) -> None:
        self._now, self._seen = lesson, False
        self.meter.on = not self._ready(lesson)

    def __call__(self) -> StepRule:
        """The rule of a segment."""
        lesson = self._now
        if lesson is None or lesson.prior is None or not self._ready(lesson):
            return StepRule()
        prior = lesson.prior
        share = prior.info.get("share")
        if missing := [name for name in self._needs if name not in prior.tables]:
            return Computed(f"the measured generations tell nothing of {missing[0]}")
        return self._rule(share, prior.tables, prior.info["networks"], lesson.plans)

    def ends(self, *, seconds: float, in_networks: float, failed: bool) -> str | None:
        """See :meth:`RuleMaker.ends`."""
        lesson, seen = self._now, self._seen
        if lesson is None or self._ready(lesson) or failed:
            return None
        if self.meter.refused is not None:
            return f"computed whole and not measured: {self.meter.refused}"
        if lesson.prior is None and not seen:
            return "computed whole and not measured: it was not seen from its first evaluation to its last"
        lesson.shares.append(in_networks / max(seconds, 1e-9))
        if lesson.prior is not None:  # only the share was wanted
            info = {**lesson.prior.info, "share": lesson.shares[-1]}
            lesson.prior = Prior(lesson.prior.setting, lesson.prior.tables, lesson.prior.samples, info)
        elif len(lesson.tables) >= self._clips:
            lesson.prior = keep(made(lesson.setting, lesson.tables, lesson.networks, share=_mean(lesson.shares)))
        return None

    @property
    def note(self) -> str | None:
        """See :meth:`RuleMaker.note`."""
        lesson = self._now
        if lesson is None:
            return None
        if self._ready(lesson):
            assert lesson.prior is not None
            return f"planned from {counted(max(lesson.prior.samples.values(), default=0), 'measured generation')}"
        if lesson.prior is not None:
            return "computed whole to see what share of the time is the networks'"
        return f"computed whole and measured, {len(lesson.tables) + 1} of {self._clips}; then it is planned"

    @property
    def prior(self) -> Prior | None:
        """See :meth:`RuleMaker.prior`."""
        return self._now.prior if self._now is not None and self._ready(self._now) else None

    def _ready(self, lesson: Lesson) -> bool:
        return lesson.prior is not None and not (self._needs_share and lesson.prior.info.get("share") is None)

    def _looked_up(self, setting: Mapping[str, Any]) -> Lesson:
        if self._given is not None:
            return Lesson(setting, fitting(self._given, setting, foreign=self._foreign))
        found, near = find(setting, foreign=self._foreign, needs=self._needs)
        if found is not None:
            return Lesson(setting, found)
        if CURVES & {*self._needs}:
            raise ValueError(NO_CURVE)
        if not self._clips:
            advice = "measures one, and accelerate with calibrate=True measures the first generations"
            raise NoPriorError(near, f"videoaccel.calibrate(pipe, calls=[...]) {advice}")
        warn_user(
            f"there is no prior of this pipeline for this call: the next {counted(self._clips, 'generation')} are "
            "computed whole and measured, later ones are planned"
        )
        return Lesson(setting)

    def _measured(self, segments: list[Measured]) -> None:
        lesson = self._now
        segments = [segment for segment in segments if len(segment.levels) >= FEWEST]
        if lesson is None or lesson.prior is not None or not segments or self.meter.refused is not None:
            return
        first, self._seen = segments[0], True
        lesson.networks = tuple(dict.fromkeys(first.components))
        found = [one.tables() for one in segments if len(one.levels) == len(first.levels)]
        try:
            lesson.tables.append(averaged([*lesson.tables[-1:], *found][-len(found) :]))
            averaged(lesson.tables)
        except ValueError:  # another number of steps: begin anew with that
            lesson.tables, lesson.shares = found[:1], []


CURVES = {"soda.psnr", QUALITY}
"""Tables of the quality that is left, which calibration alone measures."""

NO_CURVE = (
    "a quality is kept by a curve that watching generations does not give: videoaccel.calibrate(pipe, calls=[...]), or "
    "videoaccel calibrate, measures it, and there is no such prior for this call"
)


def check_tables(prior: Prior | None, needs: Sequence[str]) -> None:
    """Refuse what cannot be planned whatever the call, before anything is loaded or generated.

    Args:
        prior: The one that was given; None for those on the shelf.
        needs: Tables that a method needs beside those that any measured generation gives.

    Raises:
        ValueError: The prior that was given has not got one, or a curve is needed and no pipeline's prior here has one.
    """
    if prior is not None:
        if missing := [name for name in needs if name not in prior.tables]:
            raise ValueError(f"the prior has no table {missing[0]}; videoaccel calibrate measures it")
        return
    curves = CURVES & {*needs}
    if curves and not any(one.info.get(KINDS) == PIPELINE and curves <= one.tables.keys() for one in priors_on_shelf()):
        raise ValueError(NO_CURVE)


def made(
    setting: Mapping[str, Any],
    tables: Sequence[Mapping[str, Tensor]],
    networks: Sequence[str],
    *,
    share: float | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> Prior:
    """A prior of a pipeline.

    Args:
        setting: For what it holds.
        tables: Of each generation that was measured.
        networks: Their names by number.
        share: The networks' share of the whole time.
        more: Further tables.
    """
    whole = {**averaged(tables), **(more or {})}
    info = {
        KINDS: PIPELINE,
        "videoaccel": __version__,
        "networks": list(networks),
        "evaluations": len(whole["levels"]),
        **({} if share is None else {"share": share}),
    }
    return Prior(dict(setting), whole, dict.fromkeys(whole, len(tables)), info)


def keep(prior: Prior) -> Prior:
    """Write a prior to the user's cache, where it is found by its setting; a folder that cannot be written is said.

    Returns:
        The prior, with the path where it is now.
    """
    path = kept_at(prior.setting)
    if kept_nowhere(path) or rank_here():  # of ranks that measure together the first writes
        return prior
    prior = _completed(prior, find(prior.setting)[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prior.save(path)
    except OSError as error:
        warn_user(f"what was measured is not kept for next time: {error}")
        return prior
    return replace(prior, path=path)


def _completed(prior: Prior, old: Prior | None) -> Prior:
    """With tables that were measured before for the same evaluations, and not now (a quality curve)."""
    if old is None:
        return prior
    levels, known = old.tables.get("levels"), prior.tables["levels"]
    if levels is None or levels.shape != known.shape or not torch.allclose(levels, known, rtol=1e-4):
        return prior
    more = {name: table for name, table in old.tables.items() if name not in prior.tables}
    counts = {**prior.samples, **{name: old.samples[name] for name in more}}
    return Prior(prior.setting, {**prior.tables, **more}, counts, prior.info)


def kept_at(setting: Mapping[str, Any]) -> Path:
    """Where a further prior for a setting belongs in the user's cache.

    One that is there stays: sidecars of clips that were planned with it name it.
    """
    name = hashlib.sha256(json.dumps(setting, sort_keys=True, default=str).encode()).hexdigest()[:24]
    for number in count(1):
        path = cache_folder("priors") / f"pipeline-{name}{f'-{number}' if number > 1 else ''}.safetensors"
        if not path.exists():
            return path
    raise AssertionError


def find(setting: Mapping[str, Any], *, foreign: bool = False, needs: Sequence[str] = ()) -> tuple[Prior | None, str]:
    """A prior on the shelf for a setting, and else in what the nearest differs.

    Of several the one of most generations, with a quality curve if any has one; of equal ones the newest.

    Args:
        setting: See :func:`videoaccel.adapters.call_setting.setting_of_call`.
        foreign: Take the nearest.
        needs: Tables that it must have.
    """
    nearest: tuple[int, str, Prior | None] = (1000, "", None)
    exact: list[Prior] = []
    for prior in priors_on_shelf():
        fatal = is_of_another(prior.setting, setting)
        if prior.info.get(KINDS) != PIPELINE or fatal or not set(needs) <= set(prior.tables):
            continue
        told = differences(prior.setting, setting)
        if not told:
            exact.append(prior)
            continue
        nearest = min(nearest, (len(told), ", ".join(told), prior), key=lambda one: one[0])
    if exact:
        return max(exact, key=_worth), ""
    return (nearest[2], "") if foreign else (None, nearest[1])


def _worth(prior: Prior) -> tuple[bool, int, float]:
    made = 0.0 if prior.path is None or not prior.path.exists() else prior.path.stat().st_mtime
    return "soda.psnr" in prior.tables, max(prior.samples.values(), default=0), made


def check_kind(prior: Prior) -> None:
    """Refuse a prior of our own networks.

    Raises:
        ValueError: It is one.
    """
    if prior.info.get(KINDS) != PIPELINE:
        raise ValueError("the prior was made for one of this project's own models, not for a pipeline of diffusers")


def fitting(prior: Prior, setting: Mapping[str, Any], *, foreign: bool) -> Prior:
    """A prior that was given, if it may be used.

    Raises:
        ValueError: It was measured for something else; says in what it differs.
    """
    check_kind(prior)
    told = differences(prior.setting, setting)
    fatal = is_of_another(prior.setting, setting)
    if told and (fatal or not foreign):
        advice = "; calibrate this pipeline" if fatal else "; calibrate for this call, or allow a foreign prior"
        raise ValueError(f"the prior was measured for {', '.join(told)}{advice}")
    return prior


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True, default=str)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
