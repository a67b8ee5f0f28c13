"""How well every second frame can be foretold from its neighbours by AMT-S (Li et al. 2023)."""

from typing import ClassVar

import torch
from torch import Tensor

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.metrics.temporal_flickering import steadiness
from videoaccel.eval.official import OfficialMetric


def to_bytes(pictures: Tensor) -> Tensor:
    """Interpolated pictures in [0, 1] as uint8: clipped, and cut to whole levels, not rounded."""
    return pictures.mul(255).clamp(0, 255).to(torch.uint8)


def smoothness(frames: Tensor, interpolated: Tensor) -> float:
    """1 where the frames between are as foretold.

    Args:
        frames: The clip, uint8 [T, H, W, 3].
        interpolated: Its even frames with a foretold one after each but the last, uint8 [T or T - 1, H, W, 3].
    """
    pairs = zip(frames[1::2], interpolated[1::2], strict=False)  # an even number leaves the last frame over
    return steadiness([float((a.short() - b.short()).abs().sum()) / a.numel() for a, b in pairs])


class MotionSmoothness(OfficialMetric):
    """Motion smoothness, 0 to 1."""

    title: ClassVar[str] = "motion smoothness"
    requires: ClassVar[tuple[Backbone, ...]] = (
        Backbone("amt_model/amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth"),
    )
