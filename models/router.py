"""Routers: small networks that say of every block which of its modules to run, and how wide its MLP.

A block's router looks at the stream as the block's self-attention sees it, normed and modulated for the timestep. Its
last layer is linear, so its mean over tokens can be summed over shards of them. The budget, the share of the modules'
FLOPs that may be spent, shifts the logits: one set of routers serves all speeds.

Source: E-DiT (arXiv 2602.13993), with the block's own modulation in place of a private one, a gate for every module,
and the budget as an input.

Shape legend: K blocks, R generation rows, B samples, T frames, S places, C channels, H router's hidden size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

GATES = ("attn", "cross", "mlp")
"""Kinds of the modules that have a gate, in the order of the logits; a block may lack one."""

WIDTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of an MLP's hidden neurons, in the order of the logits behind the gates'."""

LOGITS = len(GATES) + len(WIDTHS)
OPEN = math.log(0.7 / 0.3)
"""Bias of a gate at first: it is open with probability 0.7."""

BUDGET_FEATURES = 16


class Routers(nn.Module):
    """One router for every block; at first they run everything at full width, at any budget.

    Args:
        blocks: K.
        channels: C.
        hidden: H.
        stride: Every so many places are looked at.
    """

    def __init__(self, blocks: int, channels: int, *, hidden: int = 128, stride: int = 4) -> None:
        super().__init__()
        self.stride = stride
        bound = 1 / math.sqrt(channels)
        self.trunk = nn.Parameter(torch.empty(blocks, hidden, channels).uniform_(-bound, bound))
        self.trunk_bias = nn.Parameter(torch.zeros(blocks, hidden))
        self.head = nn.Parameter(torch.randn(blocks, LOGITS, hidden) * 1e-3)
        self.bias = nn.Parameter(torch.tensor([OPEN] * len(GATES) + [0.0, 0.0, 0.0, 2.0]).repeat(blocks, 1))
        self.spread = nn.Parameter(torch.linspace(-4, 4, BUDGET_FEATURES).repeat(blocks, 1))
        self.shift = nn.Parameter(torch.zeros(blocks, LOGITS, BUDGET_FEATURES))

    @property
    def shape(self) -> dict[str, int]:
        """Arguments with which it was made."""
        blocks, hidden, channels = self.trunk.shape
        return {"blocks": blocks, "channels": channels, "hidden": hidden, "stride": self.stride}

    def sums(self, block: int, h: Tensor, *, first: int = 0, places: int | None = None) -> Tensor:
        """What the tokens of some places add to a block's logits, and their number; float32 [R, LOGITS + 1].

        Args:
            block: Its number.
            h: Output of its self-attention's ``pre``, [R, T, S, C].
            first: Number of the first place in the whole clip.
            places: Real places; those behind are padding.
        """
        seen = h[:, :, (-first) % self.stride : places : self.stride].flatten(1, 2).float()
        trunk = torch.relu(seen @ self.trunk[block].float().T + self.trunk_bias[block].float())
        total = trunk.sum(1) @ self.head[block].float().T
        return torch.cat([total, total.new_full((len(total), 1), float(seen.shape[1]))], dim=1)

    def logits(self, sums: Tensor, budget: Tensor, blocks: Sequence[int] | None = None) -> Tensor:
        """Logits from sums over all tokens, float32 [K, B, LOGITS].

        Args:
            sums: [K, B, LOGITS + 1].
            budget: Share of the modules' FLOPs, [B].
            blocks: Numbers of the blocks, default all.
        """
        chosen = slice(None) if blocks is None else list(blocks)
        features = torch.sin(self.spread[chosen][:, None] * budget[None, :, None].float())
        shift = torch.einsum("kbf,klf->kbl", features, self.shift[chosen].float())
        return sums[..., :-1] / sums[..., -1:] + self.bias[chosen][:, None].float() + shift


def hard(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Decisions: which gates are open, bool [..., 3], and the share of the MLP's neurons, [...]."""
    widths = torch.tensor(WIDTHS, device=logits.device)
    return logits[..., : len(GATES)] >= 0, widths[logits[..., len(GATES) :].argmax(-1)]


def straight_through(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same as numbers with gradients: gates [..., 3], and one-hot widths [..., 4]."""
    soft = torch.sigmoid(logits[..., : len(GATES)])
    choice = torch.softmax(logits[..., len(GATES) :], -1)
    picked = torch.nn.functional.one_hot(choice.argmax(-1), len(WIDTHS)).to(choice)
    return (soft >= 0.5).to(soft) + soft - soft.detach(), picked + choice - choice.detach()
