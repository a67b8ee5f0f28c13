"""What a generation gives back.

Shape legend: B samples, T frames, H, W pixels, Z latent channels, t, h, w latent sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from videoaccel.media.reader import to_uint8

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Frames of every sample.

    Attributes:
        frames: By ``output_type``: ``pil`` a list of lists of images; ``np`` float32 [B, T, H, W, 3] in [0, 1]; ``pt``
            float32 [B, T, 3, H, W] in [0, 1]; ``latent`` float32 [B, Z, t, h, w].
    """

    frames: Any


def as_frames(chunks: Sequence[Tensor], output_type: str) -> Any:
    """Decoded chunks [B, 3, T, H, W] as the user wants them."""
    if output_type == "pil":
        images = torch.cat([torch.from_numpy(to_uint8(chunk)) for chunk in chunks], dim=1)
        return [[Image.fromarray(frame.numpy()) for frame in sample] for sample in images]
    video = (torch.cat(list(chunks), dim=2).float().clamp(-1, 1) + 1) / 2
    if output_type == "pt":
        return video.transpose(1, 2).cpu()
    return video.permute(0, 2, 3, 4, 1).cpu().numpy()
