"""The session that carries out a plan made beforehand."""

from torch import Tensor

from videoaccel.models.seam import BODY, Site
from videoaccel.planning.plan import Plan
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Combine, Compute, Forecast, Place, Span, order_of, reads
from videoaccel.session.columns import Select
from videoaccel.session.job import Job, Mix, local_mix


class PlanSession(ActionSession):
    """Carries out a plan."""

    def __init__(
        self, plan: Plan, job: Job, *, mix: Mix = local_mix, select: Select = "signed", groups: int = 8
    ) -> None:
        places = {place for step in plan.steps for place in step}
        orders = [order_of(action) for step in plan.steps for action in step.values()]
        super().__init__(
            job,
            mix=mix,
            spans=[place for place in places if isinstance(place, Span)],
            order=max(orders, default=0),
            select=select,
            groups=groups,
        )
        self.plan = plan
        self.decides_network = BODY in places
        self.decides_modules = any(isinstance(p, Site) and p.kind not in ("body", "block") for p in places)
        self.decides_blocks = any(isinstance(place, Site) and place.kind == "block" for place in places)
        self.wanted = _wanted(plan)
        self._anchors = _history(plan)
        self._computed: list[int] = []

    def begin(self, i: int) -> None:
        """A new step: what the plan expects to be off."""
        super().begin(i)
        if self.plan.expected:
            self.errors[-1].update(self.plan.expected[i])

    def decide(self, place: Place, seen: Seen) -> Action:
        """What the plan says; where other steps were computed than it thinks, a forecast in place of a combination."""
        action = self.plan.steps[self.i].get(place, COMPUTE)
        if isinstance(action, Combine) and self._computed[-len(action.weights) :] != self._anchors[self.i]:
            return Forecast(len(action.weights) - 1)
        return action

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        """Remembers in which steps the network was called."""
        if place == BODY:
            self._computed.append(self.i)

    def disturb(self) -> None:
        """See :meth:`ActionSession.disturb`."""
        super().disturb()
        self._computed.clear()

    def keeps(self, place: Place) -> bool:
        """Whether the plan serves it later."""
        return (self.i, place) in self.wanted


def _wanted(plan: Plan) -> set[tuple[int, Place]]:
    """Steps and places whose delta is served later on, or is the history of one that is."""
    wanted: set[tuple[int, Place]] = set()
    for place in {place for step in plan.steps for place in step}:
        history: list[int] = []
        for i, step in enumerate(plan.steps):
            action = step.get(place, COMPUTE)
            if isinstance(action, Compute):
                history.append(i)
            elif reads(action):
                wanted |= {(mark, place) for mark in history[-1 - order_of(action) :]}
    return wanted


def _history(plan: Plan) -> list[list[int]]:
    """For every step, the network calls before it whose velocities the plan combines there."""
    marks: list[int] = []
    found = []
    for i, step in enumerate(plan.steps):
        action = step.get(BODY, COMPUTE)
        found.append(marks[-len(action.weights) :] if isinstance(action, Combine) else [])
        if isinstance(action, Compute):
            marks.append(i)
    return found
