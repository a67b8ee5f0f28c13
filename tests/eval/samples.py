"""Clips that tests of metrics draw themselves, and ways to spoil them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.eval.metric import Sample


def moving(frames: int, side: int) -> Tensor:
    """A textured square that moves over a gradient, uint8 [T, side, side, 3]."""
    texture = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ramp = torch.linspace(0, 200, side).to(torch.uint8)
    clip = ramp[None, None, :, None].expand(frames, side, side, 3).clone()
    size = max(side // 3, 2)
    for t in range(frames):
        at = (t * max(side // 16, 1)) % (side - size)
        clip[t, at : at + size, at : at + size] = texture[:size, :size]
    return clip


def noisy(clip: Tensor, level: int) -> Tensor:
    """Noise of 6 grey levels times ``level`` in every frame anew."""
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1)) * 6 * level
    return (clip + noise).clamp(0, 255).to(torch.uint8)


def blurred(clip: Tensor, level: int) -> Tensor:
    """A mean over 2 * level + 1 pixels."""
    x = clip.movedim(-1, 1).float()
    x = F.avg_pool2d(F.pad(x, [level] * 4, mode="replicate"), 2 * level + 1, stride=1)
    return x.movedim(1, -1).to(torch.uint8)


def shuffled(clip: Tensor) -> Tensor:
    """Every third frame in turn, so that none stays in its place; 8 frames or another number without a factor of 3."""
    return clip[[(3 * t + 1) % len(clip) for t in range(len(clip))]]


def sample(clip: Tensor, reference: Tensor) -> Sample:
    return Sample("clip", clip, reference=reference)
