"""E-DiT: routers say block by block which modules run and how wide the MLP is, for every sample, at any budget.

Source: Elastic Diffusion Transformer (E-DiT, arXiv 2602.13993), made for images. Routers are trained for a model by
``videoaccel train-router``, with the model frozen; nothing of the model is changed, narrow MLPs run on reordered copies
of its weights. Differences: a gate for every module (a block with none open is left out); the budget is an input, so
one set of routers serves all speeds; what a step decides rests on what the routers saw in the step before, so that
numbers are brought to the host once a step, and the first step runs whole; the guidance branches of a sample decide
together unless told otherwise, since guidance amplifies what they do not have in common.
``band`` is the published cache: a block that is barely wanted is served from its own last residual, whose age is
counted in steps, apart for every row; ``start`` (ours) leaves a share of the first steps whole. ``decisions: static``
needs no routers: it closes modules from the middle of the network outwards, the same in every step, and is the control
that routers have to beat.

Published: 1.4 to 1.9 times on image models, after training on 32 GPUs; no video, no comparison with caches.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from videoaccel.models.router import GATES, LOGITS, Routers, hard
from videoaccel.models.rows import rows_at
from videoaccel.models.seam import Site, Work
from videoaccel.planning.router_file import RouterFile, find_routers
from videoaccel.policies._trunk import modulated, require_branches, require_steps
from videoaccel.session.action_grid import averaged
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, SKIP, Action, Compute, Place
from videoaccel.session.costs import GAIN, Costs, Unit
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session

DEFAULT_RATIO = 1.5


class Choice(NamedTuple):
    """What happens in a block.

    Attributes:
        gates: Whether its modules run, in the order of ``GATES``.
        width: Share of the MLP's hidden neurons.
        near: Whether it is barely wanted, and may be served.
    """

    gates: tuple[bool, ...] = (True, True, True)
    width: float = 1.0
    near: bool = False


Choices = tuple[Choice, ...]
"""Of all blocks, for one row."""


class Elastic(Policy):
    """Leave out modules and parts of MLPs, as trained routers say for the sample and the budget."""

    knob: ClassVar[str] = "flops_ratio"
    sweep: ClassVar[tuple[float, ...]] = (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)

    never_whole: ClassVar[bool] = True

    flops_ratio: float | None = Field(
        None, ge=1, description="How many times fewer FLOPs; 1.5 unless a target is given."
    )
    speedup: float | None = Field(None, ge=1, description="How many times faster, by this machine's measured costs.")
    decisions: Literal["learned", "static"] = Field("learned", description="Routers decide, or a fixed order.")
    router: str | None = Field(None, description="File of routers; default those found for the model.")
    band: float = Field(
        0.0, ge=0, lt=0.5, description="A block whose probability to run is above 0.5 by less than this is served."
    )
    max_age: int = Field(3, ge=1, description="Greatest age, in steps, of what a block is served from.")
    start: float = Field(
        0.0, ge=0, lt=1, description="Share of the steps, at the start, that are whole; the first one always is."
    )
    branches: Literal["together", "apart"] = Field("together", description="Guidance branches decide as one, or not.")

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.flops_ratio is not None and self.speedup is not None:
            raise ValueError("give one of flops_ratio and speedup, not both")
        unused = self.model_fields_set & {"router", "band", "max_age", "branches"}
        if self.decisions == "static" and unused:
            raise ValueError(f"{min(unused)} changes nothing where decisions are static")
        if "max_age" in self.model_fields_set and not self.band:
            raise ValueError("max_age changes nothing without a band")
        return self

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "modules"

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        require_steps(job, 2, "elastic")
        if self.branches == "apart":
            require_branches(job, "elastic with branches apart")
        assert job.costs is not None
        unit: Unit = "flops" if self.speedup is None else "ms"
        costs = job.costs(unit)
        target = self.flops_ratio or self.speedup or DEFAULT_RATIO
        whole = min(job.steps - 1, max(1, round(self.start * job.steps)))
        budget = budget_of(costs, target, steps=job.steps, whole=whole)
        if self.decisions == "static":
            return _ElasticSession(self, job, mix, whole=whole, fixed=closed_from_the_middle(costs, budget))
        file = self._routers(job)
        low, high = file.budget
        if budget < low - 1e-6:
            raise ValueError(
                f"{target:g} times {GAIN[unit]} leaves {budget:.2f} of the blocks' cost, and the routers were "
                f"trained for {low:g} to {high:g}"
            )
        return _ElasticSession(self, job, mix, whole=whole, file=file, budget=min(budget, high))

    def _routers(self, job: Job) -> RouterFile:
        assert job.identity is not None
        network, blocks = job.identity(), [str(site) for site in job.blocks]
        found = find_routers(network) if self.router is None else RouterFile.load(self.router)
        if found is None:
            raise ValueError(
                "elastic needs routers trained for this model; make them with `videoaccel train-router`, "
                "or set decisions to 'static'"
            )
        return found.check(network, blocks=blocks)


def budget_of(costs: Costs, target: float, *, steps: int, whole: int = 1) -> float:
    """Share of the blocks' cost that may be spent in a step, if the first ``whole`` ones are whole.

    Raises:
        ValueError: The target cannot be reached even by leaving out all blocks.
    """
    blocks = costs.dense - costs.rest
    share = ((steps * costs.dense / target - whole * costs.dense) / (steps - whole) - costs.rest) / blocks
    if share <= 0:
        most = steps * costs.dense / (whole * costs.dense + (steps - whole) * costs.rest)
        raise ValueError(f"{target:g} times {GAIN[costs.unit]} cannot be reached: without any block it is {most:.2f}")
    return share


def module_costs(costs: Costs) -> list[list[float]]:
    """What each block's modules cost, in the order of the gates; 0 for one that a block lacks."""
    found = []
    for sites in costs.blocks.values():
        by_kind = {site.kind: costs.module(site, COMPUTE) for site in sites}
        found.append([by_kind.get(kind, 0.0) for kind in GATES])  # type: ignore[call-overload]
    return found


def closed_from_the_middle(costs: Costs, budget: float) -> Choices:
    """Close modules, the middle blocks' first, until the others cost no more than the budget."""
    prices = module_costs(costs)
    left, allowed = sum(map(sum, prices)), budget * sum(map(sum, prices))
    gates = [[True] * len(GATES) for _ in prices]
    middle = (len(prices) - 1) / 2
    for k in sorted(range(len(prices)), key=lambda k: abs(k - middle)):
        for g, price in enumerate(prices[k]):
            if left <= allowed * (1 + 1e-9):
                return tuple(Choice(tuple(block)) for block in gates)
            gates[k][g], left = False, left - price
    return tuple(Choice(tuple(block)) for block in gates)


def choices_of(logits: Tensor, *, band: float) -> list[Choices]:
    """What routers decide for every row, from logits [K, R, LOGITS] on the CPU."""
    gates, widths = hard(logits)
    best = torch.sigmoid(logits[..., : len(GATES)]).amax(-1)
    near = (best >= 0.5) & (best < 0.5 + band)
    blocks, rows = widths.shape
    gates_, widths_, near_ = gates.tolist(), widths.tolist(), near.tolist()
    return [tuple(Choice(tuple(gates_[k][r]), widths_[k][r], near_[k][r]) for k in range(blocks)) for r in range(rows)]


class _ElasticSession(ActionSession):
    decides_blocks = True

    def __init__(
        self,
        policy: Elastic,
        job: Job,
        mix: Mix,
        *,
        whole: int = 1,
        fixed: Choices | None = None,
        file: RouterFile | None = None,
        budget: float = 1.0,
    ) -> None:
        super().__init__(job, mix=mix, max_age=policy.max_age, span_form="gated")
        self.policy, self.whole_steps, self.file, self.budget, self.fixed = policy, whole, file, budget, fixed
        self.channels = None if file is None else file.routers.shape["channels"]
        self._home = {
            site: (k, GATES.index(site.kind)) for k, sites in enumerate(job.blocks.values()) for site in sites
        }
        self._whole: Choices = tuple(Choice() for _ in job.blocks)
        self._rows = [self._whole] * job.rows
        self._now = self._whole
        self._routers: Routers | None = None
        self._sums: Tensor | None = None
        self._ordered: dict[Site, Any] = {}

    # Deciding ------------------------------------------------------------------------------------------------------

    def begin(self, i: int) -> None:
        super().begin(i)
        if i < self.whole_steps:
            self._rows = [self._whole] * self.job.rows
        elif self.fixed is not None:
            self._rows = [self.fixed] * self.job.rows
        else:
            self._rows = [self._whole] * self.job.rows if self._sums is None else self._routed(self._sums)
        self._now = self._rows[0]

    def disturb(self) -> None:
        super().disturb()
        self._sums = None

    def _routed(self, sums: Tensor) -> list[Choices]:
        """Decisions of all rows, from what the routers saw in the last step."""
        assert self.file is not None
        numbers = torch.tensor(self.to_host(sums)).view(len(self.job.blocks), len(self.job.branches), -1, LOGITS + 1)
        if self.policy.branches == "together":
            numbers = numbers.sum(1, keepdim=True).expand_as(numbers)
        numbers = numbers.flatten(1, 2)
        with torch.inference_mode():
            logits = self.file.routers.logits(numbers, torch.full((numbers.shape[1],), self.budget))
        return choices_of(logits, band=self.policy.band)

    def decide(self, place: Place, seen: Seen) -> Action:
        assert isinstance(place, Site)
        if place.kind == "block":
            choice = self._now[self._index[place]]
            wanted = any(choice.gates[self._home[site][1]] for site in self.job.blocks[place])
            return (REUSE if choice.near else COMPUTE) if wanted else SKIP
        k, gate = self._home[place]
        if not self._now[k].gates[gate]:
            return SKIP
        return Compute(self._now[k].width) if place.kind == "mlp" else COMPUTE

    def keeps(self, place: Place) -> bool:
        return self.policy.band > 0 and isinstance(place, Site) and place.kind == "block"

    def _added(self, x: Tensor, out: Tensor) -> Tensor:
        # Without a band nothing is kept, so nothing need be subtracted.
        return super()._added(x, out) if self.policy.band else out

    # Running -------------------------------------------------------------------------------------------------------

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Rows that decided alike run together."""
        self.begin(i)
        groups = self._groups()
        if len(groups) == 1:
            return self.network(call)
        out: dict[str, Tensor] = {}
        traces: list[tuple[Mapping[Place, Action], int]] = []
        for names, samples, choices in groups:
            self._now, self.trace[-1] = choices, {}
            found = self.network(call, names, samples=samples)
            traces.append((self.trace[-1], len(names) * len(samples)))
            for name, values in found.items():
                whole = out.setdefault(name, values.new_empty(self.job.samples, *values.shape[1:]))
                whole[rows_at(samples)] = values
        self.trace[-1] = averaged(traces)
        return {name: out[name] for name in self.job.branches}

    def _groups(self) -> list[tuple[tuple[str, ...], list[int], Choices]]:
        """Guidance branches and samples with equal decisions."""
        count, names = self.job.samples, self.job.branches
        by_sample: dict[tuple[Choices, ...], list[int]] = {}
        for b in range(count):
            by_sample.setdefault(tuple(self._rows[b::count]), []).append(b)
        groups = []
        for branches, samples in by_sample.items():
            for choices in dict.fromkeys(branches):
                groups.append(
                    (tuple(n for n, c in zip(names, branches, strict=True) if c == choices), samples, choices)
                )
        return groups

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if site.kind == "block" and self.file is not None:
            self._look(self._index[site], modulated(Seen(branch, x, cond)))
        if site.kind == "mlp" and self._now[self._home[site][0]].width < 1:
            branch = self._narrow(site, branch)
        return super().run(site, branch, x, cond)

    def _look(self, block: int, h: Tensor) -> None:
        """Show a block's router its stream."""
        assert self.file is not None
        if self._routers is None:
            self._routers = copy.deepcopy(self.file.routers).to(h.device)
        if self._sums is None:
            self._sums = torch.zeros(len(self.job.blocks), self.job.rows, LOGITS + 1, device=h.device)
        seen = self._routers.sums(block, h, first=self.job.first_place, places=self.job.places)
        rows = range(self.job.rows) if self.rows is None else self.rows
        self._sums[block][rows_at(rows)] = seen

    def _narrow(self, site: Site, branch: Any) -> Any:
        """The MLP with its most important neurons first; where the file has no order, as it is."""
        if site not in self._ordered:
            assert self.file is not None
            order = self.file.orders.get(str(site._replace(kind="block")))
            self._ordered[site] = branch if order is None else branch.ordered(order.long())
        return self._ordered[site]
