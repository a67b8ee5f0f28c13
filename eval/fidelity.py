"""How near a clip is to the one it should be: PSNR and SSIM of every frame, averaged.

Both look at decoded bytes, which is what is seen. Frames that are equal bit for bit have no finite PSNR: where all
are, the clip's is infinite; where some are, these count as `CEILING`, as in the scripts of the field.

    >>> black, grey = torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.full((2, 16, 16, 3), 51, dtype=torch.uint8)
    >>> [round(x, 2) for x in frame_psnr(grey, black).tolist()], mean_psnr(frame_psnr(black, black).tolist())
    ([13.98, 13.98], inf)

Shape legend: B clips, T frames, H, W pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

CEILING = 100.0
"""dB that a frame without any difference counts beside others that differ; one grey level in one of a thousand pixels
gives 78."""

WINDOW = 11
"""Side of SSIM's Gaussian window, sigma 1.5 (Wang et al. 2004), and so of the smallest picture."""

_CHUNK = 4  # frames at a time: SSIM needs a dozen times their memory, in double precision (variances cancel)


def frame_psnr(video: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every frame, dB [T]; infinite where a frame is the same.

    Args:
        video: uint8 [T, H, W, 3].
        reference: The clip that it should be, of the same shape.

    Raises:
        ValueError: They are of another form, or of two.
    """

    def psnr(frames: Tensor, wanted: Tensor) -> Tensor:
        return peak_signal_noise_ratio(frames, wanted, data_range=255.0, reduction="none", dim=(1, 2, 3))

    return _by_frame(psnr, video, reference)


def frame_ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of every frame [T], at most 1; arguments as of `frame_psnr`.

    Raises:
        ValueError: They are of another form, or of two, or smaller than SSIM's window.
    """
    if min(video.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels, got {_size(video)}")

    def ssim(frames: Tensor, wanted: Tensor) -> Tensor:
        _, full = structural_similarity_index_measure(
            frames, wanted, data_range=255.0, reduction="none", return_full_image=True
        )
        edge = WINDOW // 2  # where the window hangs over the border, as in the paper's own code
        return full[..., edge:-edge, edge:-edge].flatten(1).mean(1)

    return _by_frame(ssim, video, reference)


def mean_psnr(values: Sequence[float]) -> float:
    """The mean of frames or clips; infinite only if all are."""
    if all(value == math.inf for value in values):
        return math.inf
    return sum(min(value, CEILING) for value in values) / len(values)


class ClipPSNR(Metric):
    """Mean PSNR over clips, each the mean over its frames, dB."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    clips: Tensor
    differing: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("differing", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, videos: Tensor, references: Tensor) -> None:
        """Take clips uint8 [B, T, H, W, 3] and what they should be."""
        for video, reference in zip(videos, references, strict=True):
            value = mean_psnr(frame_psnr(video, reference).tolist())
            self.total += min(value, CEILING)
            self.differing += int(value != math.inf)
            self.clips += 1

    def compute(self) -> Tensor:
        """Infinite if no clip differs; not a number before the first."""
        mean = self.total / self.clips
        return mean if self.differing or not self.clips else torch.full_like(mean, math.inf)


class ClipSSIM(Metric):
    """Mean SSIM over clips, each the mean over its frames."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    clips: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, videos: Tensor, references: Tensor) -> None:
        """Take clips uint8 [B, T, H, W, 3] and what they should be."""
        for video, reference in zip(videos, references, strict=True):
            self.total += float(frame_ssim(video, reference).mean())
            self.clips += 1

    def compute(self) -> Tensor:
        """At most 1; not a number before the first clip."""
        return self.total / self.clips


def _by_frame(measure: Callable[[Tensor, Tensor], Tensor], video: Tensor, reference: Tensor) -> Tensor:
    for clip in (video, reference):
        if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"clips must be uint8 [T, H, W, 3], not {clip.dtype} {list(clip.shape)}")
    if video.shape != reference.shape:
        raise ValueError(f"the clip is {_size(video)}, the one that it should be {_size(reference)}")
    parts = zip(video.split(_CHUNK), reference.split(_CHUNK), strict=True)
    return torch.cat([measure(a.movedim(-1, 1).double(), b.movedim(-1, 1).double()) for a, b in parts])


def _size(clip: Tensor) -> str:
    return f"{clip.shape[0]} frames of {clip.shape[1]}x{clip.shape[2]}"
