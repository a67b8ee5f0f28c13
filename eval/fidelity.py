"""How near a clip is to the one it should be, frame by frame: PSNR, SSIM, MS-SSIM, and what changes between frames.

All look at decoded bytes, which is what is seen. Frames that are equal bit for bit have no finite PSNR: where all
are, the clip's is infinite; where some are, these count as `CEILING`, as in the scripts of the field. LPIPS, which
needs a network, is in `videoaccel.eval.perceptual`.

    >>> black, grey = torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.full((2, 16, 16, 3), 51, dtype=torch.uint8)
    >>> [round(x, 2) for x in frame_psnr(grey, black).tolist()], mean_psnr(frame_psnr(black, black).tolist())
    ([13.98, 13.98], inf)

Shape legend: B clips, T frames, H, W pixels.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

CEILING = 100.0
"""dB that a frame without any difference counts beside others that differ; one grey level in one of a thousand pixels
gives 78."""

WINDOW = 11
"""Side of SSIM's Gaussian window, sigma 1.5 (Wang et al. 2004), and so of the smallest picture."""

MS_WINDOW = WINDOW * 16
"""Shorter side of the smallest picture for MS-SSIM, pixels: four halvings leave one window."""

_SIGMA, _C1, _C2 = 1.5, (0.01 * 255) ** 2, (0.03 * 255) ** 2  # of SSIM, as published
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM's scales, as published
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
        light, structure = _likeness(frames, wanted)
        return (light * structure).flatten(1).mean(1)

    return _by_frame(ssim, video, reference)


def mean_psnr(values: Sequence[float]) -> float:
    """The mean of frames or clips; infinite only if all are."""
    if all(value == math.inf for value in values):
        return math.inf
    return sum(min(value, CEILING) for value in values) / len(values)


def frame_ms_ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity over five scales, of every frame [T] (Wang et al. 2003); arguments as of `frame_psnr`.

    Raises:
        ValueError: They are of another form, or of two, or smaller than `MS_WINDOW`.
    """
    if min(video.shape[1:3]) < MS_WINDOW:
        raise ValueError(f"MS-SSIM needs pictures of at least {MS_WINDOW}x{MS_WINDOW} pixels, got {_size(video)}")

    def ms_ssim(frames: Tensor, wanted: Tensor) -> Tensor:
        found = torch.ones(len(frames), 3, dtype=frames.dtype, device=frames.device)
        for scale, weight in enumerate(_MS_WEIGHTS):
            light, structure = _likeness(frames, wanted)
            last = scale == len(_MS_WEIGHTS) - 1
            value = (light * structure if last else structure).flatten(2).mean(2)
            found = found * value.clamp(min=0) ** weight  # a negative one has no power
            frames, wanted = F.avg_pool2d(frames, 2), F.avg_pool2d(wanted, 2)
        return found.mean(1)

    return _by_frame(ms_ssim, video, reference)


def difference_mae(video: Tensor, reference: Tensor) -> Tensor:
    """How far changes from frame to frame are apart, mean absolute error [T - 1] of pixels in [0, 1].

    Raises:
        ValueError: They are of another form, or of two, or have a single frame.
    """
    return _changes(video, reference).abs().flatten(1).mean(1)


def difference_psnr(video: Tensor, reference: Tensor) -> Tensor:
    """The same as PSNR [T - 1], dB, with a peak of 1; infinite where a change is the same."""
    return -10 * torch.log10(_changes(video, reference).square().flatten(1).mean(1))


def flicker(video: Tensor) -> float:
    """Mean absolute change from frame to frame, of pixels in [0, 1].

    Raises:
        ValueError: The clip has a single frame.
    """
    _check_pairs(video)
    return float(_steps(video).abs().mean())


def check_pair(video: Tensor, reference: Tensor) -> None:
    """Make sure that two clips can be compared frame by frame.

    Raises:
        ValueError: They are not uint8 [T, H, W, 3], or of two shapes.
    """
    for clip in (video, reference):
        if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"clips must be uint8 [T, H, W, 3], not {clip.dtype} {list(clip.shape)}")
    if video.shape != reference.shape:
        raise ValueError(f"the clip is {_size(video)}, its reference {_size(reference)}")


def _by_frame(measure: Callable[[Tensor, Tensor], Tensor], video: Tensor, reference: Tensor) -> Tensor:
    check_pair(video, reference)
    parts = zip(video.split(_CHUNK), reference.split(_CHUNK), strict=True)
    return torch.cat([measure(a.movedim(-1, 1).double(), b.movedim(-1, 1).double()) for a, b in parts])


def _likeness(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's comparisons of light, and of contrast and structure, at every window inside pictures [T, 3, H, W]."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    spread_a, spread_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    both = _smooth(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return light, (2 * both + _C2) / (spread_a + spread_b + _C2)


def _smooth(x: Tensor) -> Tensor:
    """Gaussian means [T, 3, H - 10, W - 10]: along rows, then columns, which torch's own does not."""
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * _SIGMA**2))
    shares = (weights / weights.sum()).tolist()
    for axis in (-1, -2):
        size = x.shape[axis] - WINDOW + 1
        terms = (x.narrow(axis, k, size) * share for k, share in enumerate(shares))
        total = next(terms)
        for term in terms:
            total += term
        x = total
    return x


def _changes(video: Tensor, reference: Tensor) -> Tensor:
    """The difference of two clips' changes, float64 [T - 1, H, W, 3] of pixels in [0, 1]."""
    check_pair(video, reference)
    _check_pairs(video)
    return _steps(video) - _steps(reference)


def _steps(video: Tensor) -> Tensor:
    return video.double().div_(255).diff(dim=0)


def _check_pairs(video: Tensor) -> None:
    if len(video) < 2:
        raise ValueError(f"changes between frames need at least 2 frames, got {len(video)}")


def _size(clip: Tensor) -> str:
    return f"{clip.shape[0]} frames of {clip.shape[1]}x{clip.shape[2]}"
