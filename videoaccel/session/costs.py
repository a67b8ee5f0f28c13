"""What actions cost: floating-point operations, counted, and milliseconds, measured on this machine.

Layers of one axis have the same shapes, so one block of each axis is looked at. A cost is a number per (axis, kind) and
share of columns; what a step costs is their sum over the blocks plus the rest of the network.

Shape legend: R generation rows, T frames, S places, C channels.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from videoaccel.models.seam import BODY, Run, Site, Work, direct, pre_for_mix
from videoaccel.session.actions import COMPUTE, REUSE, Action, Borrow, Compute, Partial, Place, Reuse, Span
from videoaccel.session.columns import add, choose, kernels_of, score

Unit = Literal["flops", "ms"]

GAIN: Mapping[Unit, str] = {"flops": "fewer FLOPs", "ms": "faster"}
"""What is said of a ratio of so many times."""
Kind = tuple[str, str]
"""Axis and kind of a module's site."""

SHARES = (0.125, 0.25, 0.5, 0.75)
"""Shares of columns at which partial computation is measured; between them costs are interpolated."""

GROUPS = 8


class Module(NamedTuple):
    """One module as the network calls it."""

    site: Site
    branch: Any
    x: Tensor
    cond: Any


@dataclass(frozen=True)
class Costs:
    """Costs of one network at one size and batch.

    Attributes:
        unit: FLOPs or milliseconds.
        modules: By axis and kind: cost by share of columns, at least at 0 (served) and 1 (computed).
        kept: The same for spatial attention that looks at the kept columns only.
        rest: A network call in which every block is served by one residual: embeddings and final layer.
        blocks: The network's blocks, each with its modules.
    """

    unit: Unit
    modules: Mapping[Kind, Mapping[float, float]]
    kept: Mapping[Kind, Mapping[float, float]]
    rest: float
    blocks: Mapping[Site, tuple[Site, ...]] = field(repr=False)
    _partials: dict[tuple[Kind, Partial], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def module(self, site: Site, action: Action) -> float:
        """Cost of an action at a module."""
        key = (site.axis, site.kind)
        curve = self.modules[key]
        if isinstance(action, Compute):
            return curve[0.0] + action.width * (curve[1.0] - curve[0.0])
        if isinstance(action, Partial):
            if (known := self._partials.get((key, action))) is None:  # planners ask a million times
                table = self.kept.get(key, curve) if action.keys == "kept" else curve
                known = self._partials[key, action] = _between(table, action.keep)
            return known
        return curve[0.0]

    @property
    def dense(self) -> float:
        """A step in which everything is computed."""
        return self.step({}, 1.0)

    def step(self, actions: Mapping[Place, Action], share: float) -> float:
        """Cost of a step.

        Args:
            actions: By place; what is not named is computed.
            share: Rows that ran over all rows; 0 if the network was not called. Calls on smaller latents beside it
                are what is above 1, or below 1 where the whole network is served: that share of a dense step. Of a
                plan, whose steps all have 1, a served step costs nothing.
        """
        whole = actions.get(BODY, COMPUTE)
        if share == 0:
            return 0.0
        if not isinstance(whole, Compute | Partial | Borrow):
            return share * self.dense if share < 1 else 0.0
        if share > 1:
            return self.step(actions, 1.0) + (share - 1) * self.dense
        whole = COMPUTE if isinstance(whole, Borrow) else whole
        served = {
            number
            for place, action in actions.items()
            if isinstance(place, Span) and not isinstance(action, Compute)
            for number in range(place.start, place.stop)
        }
        cost = self.rest
        for number, (block, modules) in enumerate(self.blocks.items()):
            if number in served or not isinstance(actions.get(block, COMPUTE), Compute):
                continue
            cost += sum(self.module(site, actions.get(site, whole)) for site in modules)
        return share * cost

    def total(self, steps: Sequence[Mapping[Place, Action]], shares: Sequence[float] | None = None) -> float:
        """Cost of a whole plan or trace; every step runs all rows unless ``shares`` says otherwise."""
        shares = [1.0] * len(steps) if shares is None else shares
        return sum(self.step(actions, share) for actions, share in zip(steps, shares, strict=True))


def flops_share(flops: Costs, steps: Sequence[Mapping[Place, Action]], shares: Sequence[float], *, asked: int) -> float:
    """Operations of these steps, over those of the steps that were asked for, all computed."""
    return flops.total(steps, shares) / (asked * flops.dense)


def capture(call: Callable[[Run], Any]) -> list[Module]:
    """The modules of the first block of each axis, as a forward pass calls them."""
    found: dict[Site, Module] = {}

    def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if site.kind not in ("body", "block") and site.layer == 0:
            found[site] = Module(site, branch, x, cond)
        return branch.compute(x, cond, run)

    call(run)
    return list(found.values())


def serve_all(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
    """A run that passes every block by."""
    return x if site.kind == "block" else branch.compute(x, cond, serve_all)


def perform(module: Module, action: Action, stored: Tensor) -> Tensor:
    """Carry out an action at a module as a session does."""
    site, branch, x, cond = module
    if isinstance(action, Compute):
        return cast(Tensor, branch.add(x, branch.mix(pre_for_mix(branch, x, cond), cond), cond))
    if isinstance(action, Reuse):
        return cast(Tensor, branch.add(x, stored, cond))
    assert isinstance(action, Partial)
    kernels = kernels_of(branch, x)
    scores = score(x, "signed", kernels=kernels)
    columns = choose(scores, action.keep, frames=x.shape[1], groups=GROUPS, kernels=kernels)
    options: dict[str, Any] = {}
    if (site.kind, site.axis) == ("attn", "space") and action.keys == "all":
        h = branch.pre(x, cond)
        part, options["kv"] = columns.take(h), h
    else:
        part = branch.pre(columns.take(x), cond)
    return add(branch, x, branch.mix(part, cond, **options), stored, columns, cond, keep=True)


def _stored(module: Module) -> Tensor:
    """What a session would hold of a module; the stream itself may be a view in another order."""
    return torch.zeros_like(module.x, memory_format=torch.contiguous_format)


def count_flops(call: Callable[[Run], Any], *, blocks: Mapping[Site, tuple[Site, ...]]) -> Costs:
    """Count operations, attention's own included; works on a network without weights (device ``meta``).

    Args:
        call: Runs the network once with the run it is given.
        blocks: The network's blocks, each with its modules.
    """
    modules = capture(call)
    found: dict[Kind, dict[Action, float]] = {
        (m.site.axis, m.site.kind): {a: float(_flops(partial(perform, m, a, _stored(m)))) for a in _actions(m)}
        for m in modules
    }
    return _costs("flops", found, float(_flops(lambda: call(serve_all))), blocks)


def measure_time(
    call: Callable[[Run], Any], *, blocks: Mapping[Site, tuple[Site, ...]], repeats: int = 7, budget: float = 20.0
) -> Costs:
    """Measure milliseconds, all actions in turn, ``repeats`` times; the median counts.

    The modules are then scaled together so that a whole step costs what a whole step was measured to cost.

    Args:
        call: Runs the network once with the run it is given, and waits for the device.
        blocks: The network's blocks, each with its modules.
        repeats: Rounds.
        budget: Seconds after which no new round starts (but two are always run).
    """
    modules = capture(call)
    jobs: dict[Any, Callable[[], Any]] = {"dense": lambda: call(direct), "rest": lambda: call(serve_all)}
    for m in modules:
        stored = _stored(m)  # made once: sessions have it already when they serve it
        jobs |= {((m.site.axis, m.site.kind), a): partial(perform, m, a, stored) for a in _actions(m)}
    times = interleaved(jobs, repeats=repeats, budget=budget)
    found: dict[Kind, dict[Action, float]] = {}
    for key, ms in times.items():
        if isinstance(key, tuple):
            found.setdefault(key[0], {})[key[1]] = ms
    costs = _costs("ms", found, times["rest"], blocks)
    scale = (times["dense"] - costs.rest) / (costs.dense - costs.rest)
    scaled = {kind: {action: ms * scale for action, ms in by.items()} for kind, by in found.items()}
    return _costs("ms", scaled, times["rest"], blocks)


def interleaved(jobs: Mapping[Any, Callable[[], Any]], *, repeats: int, budget: float) -> dict[Any, float]:
    """Median milliseconds of each job; all run in turn, after a warm-up round that does not count."""
    samples: dict[Any, list[float]] = {name: [] for name in jobs}
    start = time.perf_counter()
    for number in range(repeats + 1):
        if number > 2 and time.perf_counter() - start > budget:
            break
        for name, job in jobs.items():
            before = time.perf_counter()
            job()
            _wait()
            if number:
                samples[name].append(1000 * (time.perf_counter() - before))
    return {name: statistics.median(values) for name, values in samples.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _actions(module: Module) -> list[Action]:
    some: list[Action] = [Partial(share) for share in SHARES]
    if (module.site.kind, module.site.axis) == ("attn", "space"):
        some += [Partial(share, keys="kept") for share in SHARES]
    return [COMPUTE, REUSE, *some]


def _flops(work: Callable[[], Any]) -> int:
    # On the CPU attention is an operator of its own, which torch does not count.
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={cpu: _sdpa_flops})
    with counter:
        work()
    return int(counter.get_total_flops())


def _sdpa_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop(q, k, v))


def _costs(
    unit: Unit, found: Mapping[Kind, Mapping[Action, float]], rest: float, blocks: Mapping[Site, tuple[Site, ...]]
) -> Costs:
    modules: dict[Kind, dict[float, float]] = {}
    kept: dict[Kind, dict[float, float]] = {}
    for kind, by in found.items():
        ends = {0.0: by[REUSE], 1.0: by[COMPUTE]}
        modules[kind] = ends | {a.keep: cost for a, cost in by.items() if isinstance(a, Partial) and a.keys == "all"}
        if looks := {a.keep: cost for a, cost in by.items() if isinstance(a, Partial) and a.keys == "kept"}:
            kept[kind] = ends | looks
    return Costs(unit, modules, kept, rest, blocks)


def _between(curve: Mapping[float, float], share: float) -> float:
    """Linear between the measured shares and below them; serving (0) is no point of the curve: computing costs more."""
    points = sorted(point for point in curve if point > 0)
    if share < points[0] and len(points) > 1:
        (low, less), (high, more) = ((point, curve[point]) for point in points[:2])
        return max(curve[0.0], less - (more - less) * (low - share) / (high - low))
    low = max((p for p in points if p <= share), default=points[0])
    high = min((p for p in points if p >= share), default=points[-1])
    if low == high:
        return curve[low]
    return curve[low] + (curve[high] - curve[low]) * (share - low) / (high - low)
