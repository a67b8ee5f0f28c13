"""The session that carries out a plan made beforehand."""

from videoaccel.models.seam import BODY, Site
from videoaccel.planning.plan import Plan
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Compute, Forecast, Place, Span, reads
from videoaccel.session.columns import Select
from videoaccel.session.policy import Job, Mix, local_mix


class PlanSession(ActionSession):
    """Carries out a plan."""

    def __init__(
        self, plan: Plan, job: Job, *, mix: Mix = local_mix, select: Select = "signed", groups: int = 8
    ) -> None:
        places = {place for step in plan.steps for place in step}
        orders = [a.order for step in plan.steps for a in step.values() if isinstance(a, Forecast)]
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

    def begin(self, i: int) -> None:
        """A new step: what the plan expects to be off."""
        super().begin(i)
        if self.plan.expected:
            self.errors[-1].update(self.plan.expected[i])

    def decide(self, place: Place, seen: Seen) -> Action:
        """What the plan says."""
        return self.plan.steps[self.i].get(place, COMPUTE)

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
                order = action.order if isinstance(action, Forecast) else 0
                wanted |= {(mark, place) for mark in history[-1 - order :]}
    return wanted
