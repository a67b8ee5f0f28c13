"""Rules of methods that plan from measured errors: those of a prior, or of the first generations, which are exact.

A pipeline tells for what it is called only when it is called, so a prior is looked for then. Without one the first
generations are computed whole and measured; what came of it is kept for next time.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import ref

from torch import Tensor

from videoaccel.adapters.call_setting import Identities, differences, setting_of_call, with_latents
from videoaccel.adapters.curves import Plans
from videoaccel.adapters.measured import Measured, averaged
from videoaccel.adapters.meter import Meter
from videoaccel.adapters.pipeline_priors import CURVES, NO_CURVE, NoPriorError, check_tables, find, fitting, keep, made
from videoaccel.adapters.refusals import FEWEST
from videoaccel.adapters.rule import Computed, RuleMaker, StepRule
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import counted
from videoaccel.planning.prior import Prior

MeasuredRule = Callable[[float | None, Mapping[str, Tensor], Sequence[str], Plans], StepRule]
"""See :class:`Lessons`."""

Of = Literal["denoiser", "all"]
"""Whose time a speed-up is of."""


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


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True, default=str)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
