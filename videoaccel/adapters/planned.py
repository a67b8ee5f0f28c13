"""A schedule made beforehand: which evaluations of each network are computed, and how the others are forecast."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from videoaccel.adapters.rule import Due, Evaluation, Refused, Serve, StepRule

Step = int | Mapping[int, float] | None
"""Of an evaluation: None if it is computed, the order of its forecast, or the share of each output by its number."""


@dataclass(frozen=True)
class OutputPlan:
    """What becomes of every evaluation, by network and by number among the evaluations of that network.

    Attributes:
        steps: By the pipeline's name of a network, see :data:`Step`. Shares are by number among the same evaluations.
        axis: Along which forecasts of an order go: ``index`` takes TaylorSeer's differences over the evaluations'
            numbers, as this project's own networks are forecast; ``time`` a polynomial over timesteps.

    Raises:
        ValueError: An evaluation builds on one that is not computed before it.

    >>> OutputPlan.of({"unet": [0, 1, 3]}, {"unet": 5}).steps
    {'unet': (None, None, 1, None, 1)}
    """

    steps: Mapping[str, tuple[Step, ...]]
    axis: Literal["index", "time"] = "index"

    def __post_init__(self) -> None:
        for component, steps in self.steps.items():
            computed = {nth for nth, step in enumerate(steps) if step is None}
            for nth, step in enumerate(steps):
                asked = set(step) if isinstance(step, Mapping) else {0} if step is not None else set()
                if missing := sorted(k for k in asked if k not in computed or k >= nth):
                    raise ValueError(
                        f"evaluation {nth} of {component} builds on {missing[0]}, which is not computed before it"
                    )

    @classmethod
    def of(
        cls,
        computed: Mapping[str, Iterable[int]],
        counts: Mapping[str, int],
        *,
        order: int | Mapping[str, Sequence[int]] = 1,
        axis: Literal["index", "time"] = "index",
    ) -> "OutputPlan":
        """From the evaluations that are computed, and how many there are.

        Args:
            computed: By network, their numbers.
            counts: By network, how many evaluations it has.
            order: Of all forecasts, or by network and evaluation.
            axis: See the class.
        """
        steps: dict[str, tuple[Step, ...]] = {}
        for component, count in counts.items():
            chosen = set(computed[component])
            orders = [order] * count if isinstance(order, int) else order[component]
            steps[component] = tuple(None if nth in chosen else orders[nth] for nth in range(count))
        return cls(steps, axis)

    @property
    def evaluations(self) -> int:
        """Of all networks."""
        return sum(map(len, self.steps.values()))

    @property
    def computed(self) -> dict[str, tuple[int, ...]]:
        """By network, the evaluations that are computed."""
        return {name: tuple(k for k, step in enumerate(steps) if step is None) for name, steps in self.steps.items()}

    @property
    def keeps(self) -> int:
        """Outputs that have to be kept."""
        places = ((name, nth) for name, steps in self.steps.items() for nth in range(len(steps)))
        return max((self._reach(name, nth) for name, nth in places), default=0)

    def _reach(self, component: str, nth: int) -> int:
        """How many of the last outputs an evaluation builds on."""
        step = self.steps[component][nth]
        if step is None:
            return 0
        if isinstance(step, int):
            return step + 1
        before = [k for k in range(nth) if self.steps[component][k] is None]
        return max(len(before) - before.index(k) for k in step)


Planner = Callable[[Evaluation], OutputPlan | Refused]
"""Makes the plan of a segment in its second evaluation, when the number of evaluations is known for certain."""


PLAN = Due("its plan")


class Planned(StepRule):
    """One segment by plan.

    Args:
        plan: The plan, or what makes it.
        keeps: Of a plan that is yet to be made, most outputs to keep.
    """

    least = 1

    def __init__(self, plan: OutputPlan | Planner, *, keeps: int = 3) -> None:
        self._plan: OutputPlan | Planner | Refused = plan
        self.keeps = plan.keeps if isinstance(plan, OutputPlan) else keeps
        self._places: dict[str, list[int]] = {}

    def decide(self, now: Evaluation) -> Serve | Refused | Due:
        """See :meth:`StepRule.decide`."""
        places = self._places.setdefault(now.component, [])
        places.append(now.i)
        if not now.course.certain:
            return PLAN
        if not isinstance(self._plan, OutputPlan | Refused):
            self._plan = self._plan(now)
            self.keeps = self._plan.keeps if isinstance(self._plan, OutputPlan) else self.keeps
        plan = self._plan
        if isinstance(plan, Refused):
            return plan
        if plan.evaluations != now.n:
            return Refused(f"the plan is for {plan.evaluations} evaluations, here are {now.n}")
        if now.nth >= len(steps := plan.steps.get(now.component, ())):
            return Refused(f"the plan has {len(steps)} evaluations of {now.component}")
        step = steps[now.nth]
        if step is None:
            return PLAN
        if isinstance(step, Mapping):
            return Serve(weights={places[nth]: share for nth, share in step.items()})
        return Serve(step, along=now.course.times if plan.axis == "time" else None)


def planned(plan: OutputPlan | Planner, *, keeps: int = 3) -> Callable[[], StepRule]:
    """Rules by plan, for :func:`videoaccel.adapters.attach.attach`."""
    return lambda: Planned(plan, keeps=keeps)
