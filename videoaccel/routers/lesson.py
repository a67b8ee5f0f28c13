"""How routers learn from the frozen model: what a student's pass is, and what it costs and errs.

Everything is computed, and what a router closes is taken off again by a factor of zero through which gradients flow as
through its probability.

Shape legend: K blocks, R rows (guidance branches times samples), B samples, T frames, S places, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from videoaccel.models.router import GATES, LOGITS, WIDTHS, Routers, straight_through
from videoaccel.models.seam import Branch, Run, Site, Work
from videoaccel.session.job import Velocities


class Teacher:
    """A dense run that keeps the stream behind the last block.

    Attributes:
        hidden: It, [R, T, S, C].
        importance: By MLP: how much its neurons matter, float32 [hidden]; kept if asked for.
    """

    def __init__(self, sites: Sequence[Site], *, measures: bool = False) -> None:
        self.last, self.measures = sites[-1], measures
        self.hidden = torch.zeros(())
        self.importance: dict[Site, Tensor] = {}

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if self.measures and site.kind == "mlp":
            module = cast(Any, branch)
            self.importance[site] = module.importance(module.pre(x, cond))
        out = branch.compute(x, cond, self.run)
        if site == self.last:
            self.hidden = out
        return out


class Student:
    """A run whose modules are gated by routers.

    Args:
        routers: The networks that learn.
        sites: The network's blocks in the order in which they run, each with its modules.
        ordered: MLPs with their most important neurons first; made when first needed.
        orders: By block, the order of its MLP's neurons.
        prices: By block, what its modules cost, in the order of the gates; 0 for one that it lacks.
        budget: Share of the prices to spend, [B].

    Attributes:
        hidden: The stream behind the last block, [R, T, S, C].
    """

    def __init__(
        self,
        routers: Routers,
        *,
        sites: Mapping[Site, Sequence[Site]],
        ordered: dict[Site, Any],
        orders: Mapping[str, Tensor],
        prices: Sequence[Sequence[float]],
        budget: Tensor,
    ) -> None:
        self.routers, self.ordered, self.orders, self.prices, self.budget = routers, ordered, orders, prices, budget
        self.home = {site: k for k, (block, modules) in enumerate(sites.items()) for site in (block, *modules)}
        self.hidden = torch.zeros(())
        self._gates: list[Tensor] = []
        self._widths: list[Tensor] = []

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if site.kind == "body":
            return branch.compute(x, cond, self.run)
        if site.kind == "block":
            self._decide(self.home[site], branch, x, cond)
            self.hidden = branch.compute(x, cond, self.run)
            return self.hidden
        module, k = cast(Branch, branch), self.home[site]
        h = module.pre(x, cond)
        delta = self._mlp(site, module, h, cond) if site.kind == "mlp" else module.mix(h, cond)
        gate = self._rows(self._gates[k][:, GATES.index(site.kind)], x)
        return x + gate * (module.add(x, delta, cond) - x)

    def share(self) -> Tensor:
        """Share of the prices that the decisions cost, [B], with gradients."""
        widths = torch.tensor(WIDTHS, device=self.budget.device)
        spent = torch.zeros_like(self.budget)
        for gates, one_hot, price in zip(self._gates, self._widths, self.prices, strict=True):
            used = gates * torch.tensor(price, device=gates.device)
            spent = spent + used[:, :-1].sum(1) + used[:, -1] * (one_hot * widths).sum(1)
        return spent / sum(map(sum, self.prices))

    def _decide(self, k: int, block: Any, x: Tensor, cond: Any) -> None:
        """The guidance branches of a sample decide together."""
        sums = self.routers.sums(k, block.attn.pre(x, block.localise(cond)))
        together = sums.view(-1, len(self.budget), LOGITS + 1).sum(0)
        gates, widths = straight_through(self.routers.logits(together[None], self.budget, [k])[0])
        assert len(self._gates) == k
        self._gates.append(gates)
        self._widths.append(widths)

    def _mlp(self, site: Site, module: Any, h: Tensor, cond: Any) -> Tensor:
        """All widths, of which one counts."""
        if site not in self.ordered:
            order = self.orders.get(str(site._replace(kind="block")))
            self.ordered[site] = module if order is None else module.ordered(order.long())
        total = torch.zeros_like(h)
        for j, width in enumerate(WIDTHS):
            part = module.mix(h, cond) if width == 1 else self.ordered[site].mix(h, cond, width=width)
            total = total + self._rows(self._widths[self.home[site]][:, j], h) * part
        return total

    def _rows(self, values: Tensor, like: Tensor) -> Tensor:
        """Numbers [B] for all rows, to multiply a stream with."""
        return values.repeat(len(like) // len(values)).view(-1, 1, 1, 1).to(like.dtype)


class Marks(NamedTuple):
    """What a lesson is worth.

    Attributes:
        velocity: Squared error of the velocities over their square.
        hidden: The same of the last hidden state.
        share: Mean share of the prices that was spent.
        missed: Mean squared distance of the share from the budget.
    """

    velocity: Tensor
    hidden: Tensor
    share: Tensor
    missed: Tensor


def lesson(call: Callable[[Run], Velocities], student: Student, teacher: Teacher) -> Marks:
    """One pass of each on the same latents.

    Args:
        call: Runs the network once with the run it is given.
        student: Fresh.
        teacher: Shows what is right.
    """
    with torch.no_grad():
        right = torch.cat(list(call(teacher.run).values()))
    said = torch.cat(list(call(student.run).values()))
    share = student.share()
    return Marks(
        velocity=_relative(said, right),
        hidden=_relative(student.hidden, teacher.hidden),
        share=share.detach().mean(),
        missed=(share - student.budget).square().mean(),
    )


def _relative(found: Tensor, right: Tensor) -> Tensor:
    error = (found.float() - right.float()).square().flatten(1).sum(1)
    return (error / right.float().square().flatten(1).sum(1).clamp(min=1e-12)).mean()
