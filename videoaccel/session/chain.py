"""Two methods in one generation: one decides about steps, the other about what is inside the steps that run.

``soda+sada`` is SADA over SODA: SADA says, sample by sample, whether the network is called, and where it is, SODA says
which of its modules are computed. What a call returned that left something out is told to the method above as such
(:attr:`videoaccel.session.policy.Session.degraded`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import SerializeAsAny, model_serializer
from torch import Tensor
from typing_extensions import Self

from videoaccel.models.seam import BODY, Work
from videoaccel.session.action_grid import averaged
from videoaccel.session.actions import COMPUTE
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix, of_sample
from videoaccel.session.policy import Policy, Session
from videoaccel.session.stretches import Stretches
from videoaccel.settings.method_fields import SIGN


class Chain(Policy):
    """A method that decides about steps over one that decides about modules."""

    under: SerializeAsAny[Policy]
    over: SerializeAsAny[Policy]

    @classmethod
    def of(cls, first: Policy, second: Policy) -> Self:
        """Put two methods together, named in any order.

        Raises:
            ValueError: They do not decide about different things.
        """
        by_level = {policy.level: policy for policy in (first, second)}
        if by_level.keys() != {"steps", "modules"}:
            raise ValueError(
                f"{first.name} and {second.name} cannot be combined: {_says(first)}, {_says(second)}; one has to "
                f"decide which steps run (sada, soda, fixed_linear) and one what is computed in them (soda, elastic, "
                f"delta_dit, pab, fora, ...)"
            )
        return cls(under=by_level["modules"], over=by_level["steps"])

    @property
    def parts(self) -> tuple[Policy, ...]:
        """See :meth:`Policy.parts`."""
        return self.under, self.over

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.under.name}{SIGN}{self.over.name}"

    @property
    def column_groups(self) -> int | None:
        """See :meth:`Policy.column_groups`."""
        return self.under.column_groups

    def coarser(self) -> "Chain | None":
        """The same over a coarser form of the method below, if that still decides about modules."""
        under = self.under.coarser()
        return None if under is None or under.level != "modules" else self.model_copy(update={"under": under})

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        over = self.over.above(self.under).session(job, mix=mix)
        under = [self.under.session(of_sample(job, row), mix=mix) for row in range(job.samples)]
        return ChainSession(over, under, names=(self.over.name, self.under.name))

    @model_serializer
    def _by_name(self) -> dict[str, Any]:
        return {policy.name: policy.model_dump(mode="json") for policy in self.parts}


class ChainSession(Session):
    """A generation under two methods.

    The samples of a batch rest in different steps, and what the lower method does hangs on the steps before; so
    each sample has a session of its own there, and samples run one after the other.

    Args:
        over: Decides about steps. It calls the network at most once a step, for all guidance branches.
        under: Decides about what is inside them, one a sample.
        names: What they are called, for what is said about them.
    """

    def __init__(self, over: Session, under: Sequence[Session], *, names: tuple[str, str] = ("over", "under")) -> None:
        super().__init__(over.job, mix=over.mix)
        self.over, self.under, self.names = over, tuple(under), names
        self.channels = under[0].channels
        self._running = under[0]

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """See :meth:`Session.predict`."""
        self.begin(i)
        ran: list[int] = []

        def network(rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
            assert not ran and branches is None, "a method over another calls the network once, all branches"
            ran.extend(range(len(x)) if rows is None else rows)
            outs = [self._one(i, row, x, call) for row in ran]
            actions = [action for row in ran for action in self.under[row].trace[-1].values()]
            self.over.degraded = any(action != COMPUTE for action in actions)
            return {name: torch.cat([out[name] for out in outs]) for name in outs[0]}

        out = self.over.predict(i, x, network)
        for row in set(range(len(x))) - set(ran):
            self.under[row].begin(i)
        self._note(ran)
        return out

    def _one(self, i: int, row: int, x: Tensor, call: Call) -> Velocities:
        """One sample of the step, under its own session."""

        def network(rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
            return call(rows=[row] if len(x) > 1 else None, branches=branches)

        self._running = self.under[row]
        self._running.whole = not self.over.may_degrade(row)
        return self._running.predict(i, x[row : row + 1], network)

    def _note(self, ran: Sequence[int]) -> None:
        """What both have decided in this step."""
        under = [self.under[row] for row in ran]
        if under:
            self.trace[-1] |= averaged([(session.trace[-1], 1) for session in under])
            self.shares[-1] = sum(session.shares[-1] for session in under) / len(self.under)
        self.trace[-1] |= self.over.trace[-1]
        for session in (*under, self.over):
            for place, error in session.errors[-1].items():
                self.errors[-1][place] = max(error, self.errors[-1].get(place, 0.0))
        self.reads[-1] = self.over.reads[-1] + sum(session.reads[-1] for session in self.under)
        self.peak_bytes = max(self.peak_bytes, self.cache_bytes)

    def run(self, site: Any, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam: what is inside a step is the method's below."""
        return self._running.run(site, branch, x, cond)

    @property
    def plain(self) -> bool:
        """See :attr:`Session.plain`."""
        return self._running.plain

    @property
    def mixes(self) -> tuple[Mix, ...]:
        """See :attr:`Session.mixes`."""
        return tuple(mix for session in self.under for mix in session.mixes)

    def replay_blocks(self, stretches: Stretches) -> bool:
        """See :meth:`Session.replay_blocks`."""
        return all([session.replay_blocks(stretches) for session in self.under])

    def disturb(self) -> None:
        """See :meth:`Session.disturb`."""
        for session in (self.over, *self.under):
            session.disturb()

    def note_guidance(self) -> None:
        """See :meth:`Session.note_guidance`; of the first sample."""
        self.under[0].note_guidance()
        self.guidance = self.under[0].guidance

    def counts(self) -> dict[str, int]:
        """See :meth:`Session.counts`; of a step that runs, what the lower method does in it."""
        steps = [{p: a for p, a in step.items() if p != BODY or a != COMPUTE or len(step) == 1} for step in self.trace]
        return dict(Counter(str(action) for step in steps for action in step.values()))

    @property
    def cache_bytes(self) -> int:
        """Of both."""
        return sum(session.cache_bytes for session in (self.over, *self.under))

    @property
    def idle(self) -> list[str]:
        """See :meth:`Session.idle`."""
        pairs = zip(self.names, (self.over, self.under[0]), strict=True)
        return [f"{name}: {reason}" for name, part in pairs for reason in part.idle]


def _says(policy: Policy) -> str:
    what = {"steps": "decides about steps", "modules": "decides about what is inside steps"}
    return f"{policy.name} {what.get(policy.level or '', 'goes with no other')}"
