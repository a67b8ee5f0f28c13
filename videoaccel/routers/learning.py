"""What routers learn from, and one iteration of it: states on a frozen model's own ways from noise to clips.

No data are needed: these ways are what is to be shortened.

Shape legend: N steps, M module sites, A ages, B samples (1), Z latent channels, T latent frames, h, w latent rows and
columns, C channels of the residual stream.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videoaccel.generation.prepared import Denoising, plain
from videoaccel.models.router import GATES, OPEN, Routers
from videoaccel.models.seam import Site
from videoaccel.planning.prior import Prior
from videoaccel.planning.router_file import importance_order
from videoaccel.policies.elastic import module_costs
from videoaccel.routers.lesson import Marks, Student, Teacher, lesson
from videoaccel.settings.routers import RouterSettings

WARM_UP = 0.05
"""Share of the iterations in which the learning rate rises."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """A latent on its way, [1, Z, T, h, w], before step ``step`` of a clip."""

    run: Denoising
    step: int
    x: Tensor


@dataclass
class Training:
    """Routers at work: everything that one iteration needs.

    Attributes:
        settings: What was asked for.
        states: What to learn from.
        prices: By block, what its modules cost, in the order of the gates.
        orders: By block, its MLP's neurons, the most important first.
        routers: The networks.
        optimizer: Of their weights.
        iteration: Iterations done.
    """

    settings: RouterSettings
    states: Sequence[State]
    prices: Sequence[Sequence[float]]
    orders: Mapping[str, Tensor]
    routers: Routers
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    _ordered: dict[Site, Any] = field(default_factory=dict)

    def step(self) -> dict[str, float]:
        """One iteration; what it was worth. Draws depend on seed and number alone."""
        s = self.settings
        drawn = torch.Generator().manual_seed(s.seed * 1_000_003 + self.iteration)
        state = self.states[int(torch.randint(len(self.states), (1,), generator=drawn))]
        low, high = s.budget
        budget = low + (high - low) * float(torch.rand(1, generator=drawn))
        marks = self.marks(state, budget)
        loss = marks.velocity + s.hidden_weight * marks.hidden + s.budget_weight * marks.missed
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at iteration {self.iteration}; a lower `rate` may help"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate * self._pace()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.routers.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        told = {name: float(value.detach()) for name, value in marks._asdict().items()}
        return {"iteration": self.iteration, "budget": budget, "loss": float(loss.detach()), **told}

    def marks(self, state: State, budget: float) -> Marks:
        """What the routers, as they are, make of a state."""
        run = state.run
        sites = run.model.sites
        student = Student(
            self.routers,
            sites=sites,
            ordered=self._ordered,
            orders=self.orders,
            prices=self.prices,
            budget=torch.full((len(state.x),), budget, device=state.x.device),
        )
        at = run.timesteps[state.step]
        return lesson(lambda guest: run.network(guest).at(state.x, at, None)(), student, Teacher(list(sites)))

    def _pace(self) -> float:
        """Rises, then falls along a cosine to a tenth."""
        done, rise = self.iteration / self.settings.iterations, WARM_UP
        if done < rise:
            return (self.iteration + 1) / max(1, rise * self.settings.iterations)
        return 0.55 + 0.45 * math.cos(math.pi * (done - rise) / (1 - rise))


def begin(
    settings: RouterSettings, runs: Sequence[Denoising], *, note: Note = lambda text: None, prior: Prior | None = None
) -> Training:
    """Fresh routers, and what they learn from: each run's way is gone once."""
    states = [state for run in runs for state in _way(run, settings.states)]
    first = runs[0]
    sites = first.model.sites
    with torch.no_grad():
        costs = first.costs("flops")
        importance = _importance(states)
    channels = _channels(first)
    torch.manual_seed(settings.seed)
    routers = Routers(len(sites), channels, hidden=settings.hidden, stride=settings.stride).to(first.z.device)
    if prior is not None and "soda.cache" in prior.tables:
        warm_start(routers, sites, prior.tables["soda.cache"])
        note("routers begin with the order of a SODA prior")
    orders = {str(site._replace(kind="block")): importance_order(value).cpu() for site, value in importance.items()}
    optimizer = torch.optim.AdamW(routers.parameters(), lr=settings.rate, weight_decay=0.01)
    return Training(settings, states, module_costs(costs), orders, routers, optimizer)


@torch.no_grad()
def warm_start(routers: Routers, sites: Mapping[Site, Sequence[Site]], errors: Tensor) -> None:
    """Let the gates of modules that may best be served begin nearer to closing; all begin open.

    Args:
        routers: Fresh ones.
        sites: The network's blocks with their modules.
        errors: ``soda.cache`` [N, M, A]: what serving each module at each age errs.
    """
    means = errors[:, :, 0].nanmean(0)
    ranks = means.argsort().argsort() / max(1, len(means) - 1)
    modules = [(k, site) for k, within in enumerate(sites.values()) for site in within]
    assert len(modules) == len(ranks)
    for (k, site), rank in zip(modules, ranks.tolist(), strict=True):
        routers.bias[k, GATES.index(site.kind)] = OPEN * (0.25 + 1.5 * rank)


@torch.no_grad()
def _way(run: Denoising, count: int) -> list[State]:
    """Latents before ``count`` evenly spaced steps of a dense run."""
    steps = len(run.timesteps)
    wanted = {round(k * (steps - 1) / max(1, count - 1)) for k in range(count)}
    found = [State(run, 0, run.z.clone())] if 0 in wanted else []

    def keep(i: int, t: Tensor, x: Tensor) -> Tensor:
        if i + 1 in wanted:
            found.append(State(run, i + 1, x.clone()))
        return x

    plain(run, keep)
    return found


def _importance(states: Sequence[State]) -> dict[Site, Tensor]:
    """How much each MLP's neurons matter, over a dozen of the states."""
    total: dict[Site, Tensor] = {}
    for state in states[:: max(1, len(states) // 12)]:
        teacher = Teacher(list(state.run.model.sites), measures=True)
        state.run.network(teacher.run).at(state.x, state.run.timesteps[state.step], None)()
        for site, value in teacher.importance.items():
            total[site] = total[site] + value if site in total else value
    return total


@torch.no_grad()
def _channels(run: Denoising) -> int:
    """C."""
    teacher = Teacher(list(run.model.sites))
    run.once(teacher.run)
    return teacher.hidden.shape[-1]
