"""Muon with all matrices of one shape in one stack, so that a step is few calls and can be recorded."""

from collections import defaultdict

import torch
from torch import Tensor, nn


class StackedMuon(torch.optim.Optimizer):
    """``torch.optim.Muon`` with ``match_rms_adamw``, all matrices of one shape in one Newton-Schulz iteration.

    Matrices lie down first, so a shape and its transpose are one. ``lr`` may be a tensor, and a step whose tensor
    ``found_inf`` is 1 changes no weight: nothing asks the host, and a step can be recorded.

    Source: Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024); rates scaled as in "Muon is
    scalable for LLM training" (arXiv 2502.16982).
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self, params: list[nn.Parameter], *, lr: Tensor | float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.found_inf: Tensor | None = None
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @classmethod
    def orthogonal(cls, stack: Tensor, steps: int = 5) -> Tensor:
        """Near the closest orthogonal matrix to each of [N, rows, columns] with rows <= columns, in bfloat16."""
        a, b, c = cls.COEFFICIENTS
        x = stack.bfloat16()
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the parameters that have gradients."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            grads: list[Tensor] = [p.grad for p in moved]
            kept = 1.0 if self.found_inf is None else 1 - self.found_inf
            if self.found_inf is not None:  # a gradient that is not finite counts as none, and momentum stays
                grads = [torch.where(self.found_inf > 0, self.state[p]["momentum_buffer"], p.grad) for p in moved]
            momenta = [self.state[p]["momentum_buffer"] for p in moved]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
            torch._foreach_mul_(moved, 1 - kept * group["lr"] * group["weight_decay"])
            stacks = defaultdict(list)
            for p, update in zip(moved, ahead, strict=True):
                stacks[min(p.shape), max(p.shape)].append((p, update))
            for (_, longer), pairs in stacks.items():
                lying = torch.stack([u.mT if u.shape[0] > u.shape[1] else u for _, u in pairs])
                change = self.orthogonal(lying).float() * (-0.2 * longer**0.5 * kept * group["lr"])
                weights = [p.mT if p.shape[0] > p.shape[1] else p for p, _ in pairs]
                torch._foreach_add_(weights, list(change.unbind()))
