"""RAFT: optical flow by recurrent updates (Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms", ECCV 2020).

Features of both pictures are compared at all pairs of places, in four resolutions; a recurrent unit looks around where
the flow points so far and moves it on. Released weights (``raft-things.pth``) load by their names.

Shape legend: B pairs, H, W pixels (multiples of 8), h, w eighths of them, C channels, r radius of a look, L levels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.eval.backbones import Backbone, Backbones

RAFT_THINGS = Backbone(
    "raft_model/models/raft-things.pth", "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip", zipped=True
)
SMALLEST = 128
"""Shorter side of the smallest picture, pixels: the coarsest of four levels needs two places."""

_LEVELS, _RADIUS, _HIDDEN = 4, 4, 128


class _Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inside: int, out: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.norm1, self.norm2 = norm(out), norm(out)
        self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, stride), norm(out)) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.downsample(x) + y)


class _Encoder(nn.Module):
    """Pictures [B, 3, H, W] to features [B, 256, h, w]."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, 3), norm(64)
        self.layer1 = nn.Sequential(_Block(64, 64, 1, norm), _Block(64, 64, 1, norm))
        self.layer2 = nn.Sequential(_Block(64, 96, 2, norm), _Block(96, 96, 1, norm))
        self.layer3 = nn.Sequential(_Block(96, 128, 2, norm), _Block(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _MotionEncoder(nn.Module):
    """What is seen around the flow's ends, and the flow itself, as 128 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(_LEVELS * (2 * _RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, 126, 3, padding=1)

    def forward(self, flow: Tensor, seen: Tensor) -> Tensor:
        seen = F.relu(self.convc2(F.relu(self.convc1(seen))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([seen, moved], dim=1))), flow], dim=1)


class _SeparableGRU(nn.Module):
    """A gated recurrent unit along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        for number, kernel in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                padding = (kernel[0] // 2, kernel[1] // 2)
                self.add_module(f"conv{gate}{number}", nn.Conv2d(_HIDDEN + 256, _HIDDEN, kernel, padding=padding))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        for number in "12":
            z, r, q = (self.get_submodule(f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([h, x], dim=1)
            update, reset = z(both).sigmoid(), r(both).sigmoid()
            h = (1 - update) * h + update * q(torch.cat([reset * h, x], dim=1)).tanh()
        return h


class _FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(_HIDDEN, 256, 3, padding=1), nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class _UpdateBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _MotionEncoder(), _SeparableGRU(), _FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(_HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))

    def forward(self, state: Tensor, context: Tensor, seen: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        state = self.gru(state, torch.cat([context, self.encoder(flow, seen)], dim=1))
        return state, self.flow_head(state)


class Raft(nn.Module):
    """The large network, 20 updates.

    Args:
        updates: How often the flow is moved on.
    """

    def __init__(self, *, updates: int = 20) -> None:
        super().__init__()
        self.updates = updates
        self.fnet, self.cnet = _Encoder(nn.InstanceNorm2d), _Encoder(nn.BatchNorm2d)
        self.update_block = _UpdateBlock()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow [B, 2, H, W], pixels to the right and down, from one batch of pictures to another.

        Args:
            first: float [B, 3, H, W], 0 to 255; sides are multiples of 8 and at least `SMALLEST`.
            second: Likewise.
        """
        first, second = 2 * (first / 255.0) - 1, 2 * (second / 255.0) - 1
        pyramid = correlation_pyramid(self.fnet(first), self.fnet(second))
        state, context = self.cnet(first).split(_HIDDEN, dim=1)
        state, context = state.tanh(), context.relu()
        start = _places(first.shape[0], *context.shape[-2:], like=context)
        ends = start
        for _ in range(self.updates):
            state, move = self.update_block(state, context, look_up(pyramid, ends), ends - start)
            ends = ends + move
        return _upsample(ends - start, 0.25 * self.update_block.mask(state))


def load_raft(backbones: Backbones) -> Raft:
    """RAFT with the released weights.

    Raises:
        MissingBackbone: The file is not there.
        ValueError: It holds another network.
    """
    weights = backbones.load(RAFT_THINGS, strip="module.")
    # Under its second name, norm3, the shortcut's norm is saved once more.
    kept = {name: tensor for name, tensor in weights.items() if ".norm3." not in name}
    network = Raft()
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        raise ValueError(f"{backbones.find(RAFT_THINGS)} is not RAFT's large network") from error
    return network.eval().requires_grad_(False)


def correlation_pyramid(a: Tensor, b: Tensor) -> list[Tensor]:
    """Products of all pairs of features [B, C, h, w], L of [B * h * w, 1, h / 2^l, w / 2^l]."""
    batch, channels, height, width = a.shape
    products = a.flatten(2).transpose(1, 2) @ b.flatten(2) / channels**0.5
    levels = [products.reshape(batch * height * width, 1, height, width)]
    for _ in range(_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, stride=2))
    return levels


def look_up(pyramid: list[Tensor], ends: Tensor) -> Tensor:
    """The products within a radius of places, [B, L * (2r + 1)^2, h, w].

    Args:
        pyramid: Of `correlation_pyramid`.
        ends: Where to look, [B, 2, h, w]: x and y.
    """
    batch, _, height, width = ends.shape
    offsets = torch.linspace(-_RADIUS, _RADIUS, 2 * _RADIUS + 1, device=ends.device)
    # x varies slowest, as in the released network.
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    centres = ends.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, products in enumerate(pyramid):
        places = centres / 2**level + window
        size = torch.tensor([products.shape[-1] - 1, products.shape[-2] - 1], device=ends.device)
        sampled = F.grid_sample(products, 2 * places / size - 1, align_corners=True)
        found.append(sampled.view(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def _places(batch: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """How far right and down every place is, [B, 2, h, w]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).to(like).expand(batch, -1, -1, -1)


def _upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """Each of the 8 x 8 pixels of a place takes a convex mixture of the nine places around it."""
    batch, _, height, width = flow.shape
    shares = mask.view(batch, 1, 9, 8, 8, height, width).softmax(dim=2)
    around = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (shares * around).sum(dim=2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * height, 8 * width)
