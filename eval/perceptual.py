"""LPIPS: how different two pictures look to AlexNet (Zhang et al. 2018, version 0.1).

Features after each of AlexNet's five convolutions are scaled to unit length at every place; their squared differences
go through a published linear head, and the mean over the picture is summed over layers. The heads (6 kB) come with
torchmetrics; the convolutions are torchvision's ``alexnet-owt-7be5be79.pth``, read from a local file. torchmetrics' own
LPIPS needs torchvision for the same numbers.

Shape legend: T frames, H, W pixels, C channels of a layer, h, w its size.
"""

from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.eval.backbones import Backbone, Backbones, read_checkpoint
from videoaccel.eval.fidelity import check_pair

ALEXNET = Backbone(
    "alexnet_model/alexnet-owt-7be5be79.pth",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ("$TORCH_HOME/hub/checkpoints/alexnet-owt-7be5be79.pth",),
)

SMALLEST = 31
"""Shorter side of the smallest picture, pixels: below it AlexNet's pooling leaves nothing."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1], as published
_EPS = 1e-10
_CHUNK = 8  # frames at a time
# Place in torchvision's ``features``, channels in and out, kernel, stride, padding, and whether pooling comes before.
_LAYERS = (
    (0, 3, 64, 11, 4, 2, False),
    (3, 64, 192, 5, 1, 2, True),
    (6, 192, 384, 3, 1, 1, True),
    (8, 384, 256, 3, 1, 1, False),
    (10, 256, 256, 3, 1, 1, False),
)


class Lpips(nn.Module):
    """The network; `frame_lpips` uses it on clips. It is never trained: no gradients, evaluation mode.

    Args:
        trunk: AlexNet's tensors, ``features.0.weight`` and so on; others are left alone.
        heads: Linear heads by layer, each [1, C, 1, 1].

    Raises:
        ValueError: A tensor is missing or has another shape.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: dict[str, Tensor], heads: list[Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inside, out, kernel, stride, padding) for _, inside, out, kernel, stride, padding, _ in _LAYERS
        )
        wanted = {
            f"{i}.{part}": trunk.get(f"features.{layer[0]}.{part}")
            for i, layer in enumerate(_LAYERS)
            for part in ("weight", "bias")
        }
        if absent := [name for name, tensor in wanted.items() if tensor is None]:
            raise ValueError(f"these are not AlexNet's weights: {len(absent)} of {len(wanted)} tensors are missing")
        try:
            self.convolutions.load_state_dict({name: tensor for name, tensor in wanted.items() if tensor is not None})
        except RuntimeError as error:
            raise ValueError("these are not AlexNet's weights: some have other shapes") from error
        for i, head in enumerate(heads):
            self.register_buffer(f"head{i}", head.detach().clone())
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def from_backbones(cls, backbones: Backbones | None = None) -> "Lpips":
        """Made from local files.

        Raises:
            MissingBackbone: AlexNet's file is not there; says where it belongs.
            ValueError: The file holds something else.
        """
        return cls((backbones or Backbones()).load(ALEXNET), published_heads())

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Features of unit length, five of [T, C, h, w], of pictures [T, 3, H, W] in [-1, 1]."""
        x, found = (pictures - self.shift) / self.scale, []
        for layer, convolution in zip(_LAYERS, self.convolutions, strict=True):
            if layer[-1]:
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.relu(convolution(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + _EPS))
        return found

    def forward(self, pictures: Tensor, others: Tensor, *, spatial: bool = False) -> Tensor:
        """Distance of pictures [T, 3, H, W] in [-1, 1] from others: [T], or a map [T, H, W] if ``spatial``."""
        total = torch.zeros((), device=pictures.device)
        for i, (a, b) in enumerate(zip(self.features(pictures), self.features(others), strict=True)):
            layer = ((a - b).square() * self.get_buffer(f"head{i}")).sum(1, keepdim=True)
            if spatial:
                wide = F.interpolate(layer, size=pictures.shape[-2:], mode="bilinear", align_corners=False)
                total = total + wide[:, 0]
            else:
                total = total + layer.flatten(1).mean(1)
        return total


def published_heads() -> list[Tensor]:
    """The linear heads of LPIPS 0.1 for AlexNet, each [1, C, 1, 1], as torchmetrics ships them."""
    with resources.as_file(resources.files("torchmetrics") / "functional/image/lpips_models/alex.pth") as path:
        tensors = read_checkpoint(path)
    return [tensors[f"lin{i}.model.1.weight"] for i in range(len(_LAYERS))]


@torch.no_grad()
def frame_lpips(network: Lpips, video: Tensor, reference: Tensor, *, spatial: bool = False) -> Tensor:
    """LPIPS of every frame [T]; 0 for equal ones, larger is worse.

    Args:
        network: Such as ``Lpips.from_backbones()``.
        video: uint8 [T, H, W, 3].
        reference: The clip that it should be, of the same shape.
        spatial: Average the map at the picture's size, as PAB's and TeaCache's scripts do, and not each layer's own;
            the two differ in the fifth digit.

    Raises:
        ValueError: They are of another form, or of two, or smaller than `SMALLEST`.
    """
    check_pair(video, reference)
    return _distances(network, video, reference, spatial=spatial)


@torch.no_grad()
def pair_lpips(network: Lpips, video: Tensor) -> Tensor:
    """LPIPS of every frame to the next [T - 1], of uint8 [T, H, W, 3].

    Raises:
        ValueError: There is a single frame, or frames are smaller than `SMALLEST`.
    """
    check_pair(video, video)
    if len(video) < 2:
        raise ValueError(f"changes between frames need at least 2 frames, got {len(video)}")
    return _distances(network, video[:-1], video[1:], spatial=False)


def _distances(network: Lpips, video: Tensor, others: Tensor, *, spatial: bool) -> Tensor:
    if min(video.shape[1:3]) < SMALLEST:
        size = f"{video.shape[1]}x{video.shape[2]}"
        raise ValueError(f"LPIPS needs pictures of at least {SMALLEST}x{SMALLEST} pixels, got {size}")
    device = network.shift.device
    found = []
    for a, b in zip(video.split(_CHUNK), others.split(_CHUNK), strict=True):
        distances = network(_pictures(a.to(device)), _pictures(b.to(device)), spatial=spatial)
        found.append(distances.flatten(1).mean(1) if spatial else distances)
    return torch.cat(found)


def _pictures(frames: Tensor) -> Tensor:
    return frames.movedim(-1, 1).float().div_(255).mul_(2).sub_(1)
