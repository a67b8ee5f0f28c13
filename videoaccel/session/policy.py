"""What an acceleration method is to the rest of the house: a policy makes a session, a session answers two questions.

*Shall this step run?* (:meth:`Session.predict`) and *shall this branch run?* (:meth:`Session.run`). Both are answered
"compute" here; a method overrides what it changes. A session lives for one generation and is never reset.

Shape legend: B batch (samples), N steps, T latent frames, S places, C channels.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from torch import Tensor

from videoaccel.models.seam import Branch, Site, Work, pre_for_mix
from videoaccel.session.actions import COMPUTE, Action, Place, precisely
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.stretches import Stretches
from videoaccel.settings.config import no_switch


class NoTableError(ValueError):
    """A method needs calibrated errors that are not there."""


def apart(velocities: Velocities) -> Tensor:
    """Relative distance of the unconditional velocity from the conditional one; on the device."""
    cond, uncond = velocities["cond"].float(), velocities["uncond"].float()
    return (uncond - cond).norm() / cond.norm()


class Session:
    """One generation under a policy. This one computes everything: the machinery with nothing changed.

    Attributes:
        rows: Rows of the network call under way; None if all run.
        trace: For every step the action taken at each place that was asked about.
        shares: For every step the number of rows that ran over all rows; on smaller latents by their tokens.
        reads: For every step how often a number was brought from the device to the host.
        errors: For every step the relative error that the method expects at places where it did not compute.
        peak_bytes: Most memory that the session held after a step.
        made_by: What made it; None for the machinery with nothing changed.
        foretold_bytes: Peak memory as it was foretold, where it was.
        channels: C of the stream that it has to be shown; None if any will do.
        guidance: By step how far the guidance branches were apart where both ran, see :func:`apart`; None unless asked.
        whole: Whether all has to be computed in the step under way, of a session below another.
        degraded: Whether the network call that it made last left something out, of a session above another.
    """

    def __init__(self, job: Job, *, mix: Mix = local_mix) -> None:
        self.job, self.mix = job, mix
        self.rows: tuple[int, ...] | None = None
        self.trace: list[dict[Place, Action]] = []
        self.shares: list[float] = []
        self.reads: list[int] = []
        self.errors: list[dict[Place, float]] = []
        self.peak_bytes = 0
        self.made_by: Policy | None = None
        self.foretold_bytes: int | None = None
        self.channels: int | None = None
        self.degraded = self.whole = False
        self.guidance: dict[int, Tensor] | None = None

    def begin(self, i: int) -> None:
        """Called first in step ``i``."""
        self.trace.append({})
        self.shares.append(0.0)
        self.reads.append(0)
        self.errors.append({})

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Return the velocities of step ``i`` at latent ``x`` [B, Z, T, h, w]."""
        self.begin(i)
        return self.network(call)

    def network(
        self, call: Call, branches: Sequence[str] | None = None, *, samples: Sequence[int] | None = None
    ) -> Velocities:
        """Run the network on all guidance branches and samples, or some, and remember which rows these are."""
        names = self.job.branches if branches is None else tuple(branches)
        count = self.job.samples
        chosen = range(count) if samples is None else samples
        rows = tuple(self.job.branches.index(name) * count + row for name in names for row in chosen)
        self.rows = None if len(rows) == self.job.rows else rows
        self.shares[-1] += len(rows) / self.job.rows
        out = call(branches=branches) if samples is None else call(rows=samples, branches=branches)
        self.peak_bytes = max(self.peak_bytes, self.cache_bytes)
        if self.guidance is not None and {"cond", "uncond"} <= out.keys():
            self.guidance[len(self.trace) - 1] = apart(out)
        return out

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam, see :class:`videoaccel.models.seam.Run`."""
        if site.kind in ("body", "block"):
            return branch.compute(x, cond, self.run)
        module = cast(Branch, branch)
        return module.add(x, self.mixed(site, module, self.entering(module, x, cond), cond), cond)

    @property
    def plain(self) -> bool:
        """Whether all of the network call under way is computed and nobody looks inside, so that it may be replayed."""
        kind = type(self)
        return kind.run is Session.run and kind.mixed is Session.mixed

    @property
    def mixes(self) -> tuple[Mix, ...]:
        """All that it has tokens mixed by."""
        return (self.mix,)

    def replay_blocks(self, stretches: Stretches) -> bool:
        """Have blocks run by ``stretches`` wherever nothing inside of them is decided or looked at.

        Returns:
            Whether there is such a place.
        """
        return False

    def entering(self, branch: Branch, x: Tensor, cond: Any) -> Any:
        """What :meth:`mixed` is given of a module that is computed whole.

        Where nobody looks at it on the way that may be in a form that the module alone knows what to do with.
        """
        unseen = type(self).mixed is Session.mixed and getattr(self.mix, "hands_on", False)
        return pre_for_mix(branch, x, cond) if unseen else branch.pre(x, cond)

    def mixed(self, site: Site, branch: Branch, h: Tensor, cond: Any, **options: Any) -> Tensor:
        """Run the part of a module where tokens meet; a session that wants to look overrides this.

        It must not be put into ``mix`` instead: a session that holds its own method is freed, with all that it stores,
        only when Python next looks for cycles.
        """
        return self.mix(site, branch, h, cond, **options)

    def note_guidance(self) -> None:
        """From now on note in ``guidance``, by step, how far the guidance branches are apart."""
        self.guidance = {}

    def disturb(self) -> None:
        """The latent is not the one that the last step left: whatever is stored belongs to another."""

    @property
    def cache_bytes(self) -> int:
        """Memory that the session holds now."""
        return 0

    def to_host(self, stats: Tensor) -> list[float]:
        """Bring numbers that all ranks agree on to the host. Once a step: the device has to wait for it."""
        self.reads[-1] += 1
        assert self.reads[-1] == 1, "a policy reads from the device at most once a step"
        return cast(list[float], self.job.agree(stats).flatten().tolist())

    def counts(self) -> dict[str, int]:
        """How often each action was taken."""
        return dict(Counter(str(action) for step in self.trace for action in step.values()))

    def may_degrade(self, sample: int) -> bool:
        """Of a session above another: whether the lower one may leave something out of this step."""
        return True

    @property
    def idle(self) -> list[str]:
        """Why nothing was gained so far, in words; empty if something was."""
        computed = all(action == COMPUTE for step in self.trace for action in step.values())
        return ["everything was computed in every step"] if computed and min(self.shares, default=1.0) >= 1 else []

    def decisions(self) -> dict[str, str]:
        """What was decided in the step under way, by place, and the share of the rows that ran."""
        return {"rows": f"{self.shares[-1]:.3f}", **{str(place): str(a) for place, a in self.trace[-1].items()}}

    def digest(self) -> str:
        """Short hash of all decisions: two runs that decided alike share it."""
        steps = (",".join(f"{place}={precisely(action)}" for place, action in step.items()) for step in self.trace)
        text = ";".join(f"{share:.3f}:{step}" for share, step in zip(self.shares, steps, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Probe(Session):
    """A dense run that measures something for a prior."""

    held: ClassVar[int] = 0
    """Outputs of every module that it keeps at once; 0 for so few that they do not count. Where they do, several runs
    that measure some modules each need less memory."""

    by_site: ClassVar[tuple[str, ...]] = ()
    """Tables with the modules on their third axis, [B, N, M, ...]."""

    def only(self, sites: frozenset[Site]) -> None:
        """Measure these modules only; called before the run, of probes that keep outputs."""
        raise NotImplementedError

    def tables(self) -> dict[str, Tensor]:
        """What was measured, by name, with the samples in front: [B, ...] on the CPU. Averaged over samples later."""
        raise NotImplementedError


class Policy(BaseModel):
    """A method's configuration: frozen and validated. Subclasses add fields and say how a session is made.

    A subclass lives in a file of its own, ``videoaccel/policies/<name>.py``; its docstring's first line is what users
    read. All fields have defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        return no_switch(value, cls.model_fields[str(info.field_name)].annotation)

    knob: ClassVar[str] = ""
    """The field that trades quality for speed."""

    sweep: ClassVar[tuple[Any, ...]] = ()
    """At least six values of it, from slow to fast."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Tables of a calibrated prior without which it cannot run."""

    uses: ClassVar[tuple[str, ...]] = ()
    """Further tables that it uses unless told not to."""

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that were added later, see :func:`videoaccel.settings.config.settled`."""

    all_or_nothing: ClassVar[bool] = False
    """Whether it holds what it promises only if all that it wants to store is stored."""

    @property
    def name(self) -> str:
        """The method's name: that of its file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    joins_branches: ClassVar[bool] = False
    """Whether it needs both guidance branches on one rank."""

    never_whole: ClassVar[bool] = False
    """Whether it leaves something out of nearly every step that it is given."""

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """What it decides about, for :mod:`videoaccel.session.chain`: which steps run, or what is computed in them.

        None if it goes with no other method.
        """
        return None

    @property
    def parts(self) -> "tuple[Policy, ...]":
        """The methods that it consists of."""
        return (self,)

    @property
    def required(self) -> tuple[str, ...]:
        """``needs`` of all its parts."""
        return tuple(table for part in self.parts for table in part.needs)

    @classmethod
    def below(cls, **fields: Any) -> "Policy":
        """The method in a chain, where another one decides about steps."""
        return cls(**fields)

    def above(self, under: "Policy") -> "Policy":
        """The method in a chain, over that one."""
        return self

    @property
    def column_groups(self) -> int | None:
        """Groups in which columns compete, so that a rank must own whole ones; None if none are chosen."""
        return getattr(self, "groups", None)

    def steps(self, steps: int) -> int:
        """Sampling steps to run where ``steps`` were asked for."""
        return steps

    @classmethod
    def probe(cls, job: Job, *, mix: Mix = local_mix) -> Probe | None:
        """A session that measures the tables in ``needs`` during a dense run; None where there are none."""
        return None

    def coarser(self) -> "Policy | None":
        """The same with fewer, larger slots, which take less memory; None if there is no such form."""
        return None

    def check_tables(self, tables: Mapping[str, Tensor], *, steps: int) -> None:
        """Look whether tables of so many steps say already that a target is out of reach.

        Raises:
            ValueError: They do; says what can be had.
        """

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """Make the session of one generation.

        Raises:
            ValueError: The job has too few steps, or its prior lacks what the method needs.
        """
        raise NotImplementedError
