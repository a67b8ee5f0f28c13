"""PSNR and SSIM against numbers that were worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.eval.fidelity import (
    CEILING,
    difference_mae,
    difference_psnr,
    flicker,
    frame_ms_ssim,
    frame_psnr,
    frame_ssim,
    mean_psnr,
)


def flat(*greys: int, side: int = 16) -> Tensor:
    """A clip of plain frames."""
    return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, side, side, 3).contiguous()


def noise(frames: int, side: int, seed: int) -> Tensor:
    return torch.randint(256, (frames, side, side, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    found = frame_psnr(flat(10, 255, 7), flat(0, 0, 7)).tolist()
    assert found == pytest.approx([20 * math.log10(255 / 10), 0.0, math.inf], abs=1e-5)
    one = flat(0, side=32)
    one[0, 3, 4, 1] = 1
    assert frame_psnr(one, flat(0, side=32)).item() == pytest.approx(10 * math.log10(255**2 * 32 * 32 * 3), abs=1e-4)


def test_many_frames_are_measured_like_few() -> None:
    a, b = noise(19, 16, 0), noise(19, 16, 1)
    alone = torch.cat([frame_psnr(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(frame_psnr(a, b), alone) and len(frame_ssim(a, b)) == 19


def test_an_infinite_mean_needs_every_frame() -> None:
    assert mean_psnr([math.inf, math.inf]) == math.inf
    assert mean_psnr([math.inf, 20.0]) == (CEILING + 20.0) / 2
    assert mean_psnr([30.0, 20.0]) == 25.0


def test_ssim_of_plain_frames_compares_their_means() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert frame_ssim(flat(100, 80), flat(150, 80)).tolist() == pytest.approx([expected, 1.0], abs=1e-4)


def test_ssim_of_one_window_is_that_of_the_formula() -> None:
    """At 11x11 pixels there is one window: the whole picture, with Gaussian weights."""
    a, b = noise(1, 11, 0), noise(1, 11, 1)
    x = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    weight = (g[:, None] * g[None] / g.sum() ** 2)[..., None]
    p, q = a[0].double(), b[0].double()
    mean_p, mean_q = (weight * p).sum((0, 1)), (weight * q).sum((0, 1))
    var_p, var_q = (weight * p**2).sum((0, 1)) - mean_p**2, (weight * q**2).sum((0, 1)) - mean_q**2
    both = (weight * p * q).sum((0, 1)) - mean_p * mean_q
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    by_channel = (2 * mean_p * mean_q + c1) * (2 * both + c2) / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
    assert frame_ssim(a, b).item() == pytest.approx(by_channel.mean().item(), abs=1e-4)


def test_ms_ssim_of_plain_frames_compares_their_means() -> None:
    """Without structure only the luminance of the coarsest scale counts, with its published weight."""
    c1 = (0.01 * 255) ** 2
    expected = ((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)) ** 0.1333
    found = frame_ms_ssim(flat(100, 80, side=176), flat(150, 80, side=176)).tolist()
    assert found == pytest.approx([expected, 1.0], abs=1e-4)


def test_ssim_is_that_of_a_plain_convolution() -> None:
    """Against windows of 11x11 slid over the picture, at every scale."""
    a, b = noise(2, 176, 0), noise(2, 176, 1)
    b = (0.7 * a + 0.3 * b).to(torch.uint8)
    x = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (x[:, None] * x / x.sum() ** 2).expand(3, 1, 11, 11)
    p, q = (clip.movedim(-1, 1).double() for clip in (a, b))
    product = torch.ones(2, 3, dtype=torch.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        m, n, mm, nn, mn = (F.conv2d(z, window, groups=3) for z in (p, q, p * p, q * q, p * q))
        structure = (2 * (mn - m * n) + c2) / (mm - m * m + nn - n * n + c2)
        full = structure * (2 * m * n + c1) / (m * m + n * n + c1)
        if scale == 0:
            assert torch.allclose(frame_ssim(a, b), full.flatten(1).mean(1), rtol=1e-10)
        product *= (full if scale == 4 else structure).flatten(2).mean(2).clamp(min=0) ** weight
        p, q = F.avg_pool2d(p, 2), F.avg_pool2d(q, 2)
    assert torch.allclose(frame_ms_ssim(a, b), product.mean(1), rtol=1e-10)


def test_changes_are_compared_and_not_levels() -> None:
    """A clip that is 20 levels too bright throughout changes like its reference."""
    assert difference_psnr(flat(30, 40, 60), flat(10, 20, 40)).tolist() == [math.inf, math.inf]
    late, wanted = flat(0, 0, 51), flat(0, 51, 51)
    assert difference_mae(late, wanted).tolist() == pytest.approx([0.2, 0.2])
    assert difference_psnr(late, wanted).tolist() == pytest.approx([-20 * math.log10(0.2)] * 2)
    assert flicker(late) == pytest.approx(0.1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 frames of 16x16, its reference 1 frames"):
        frame_psnr(flat(0, 0), flat(0))
    with pytest.raises(ValueError, match="uint8"):
        frame_psnr(flat(0).float(), flat(0))
    with pytest.raises(ValueError, match="at least 11x11"):
        frame_ssim(flat(0, side=10), flat(0, side=10))
    with pytest.raises(ValueError, match="at least 176x176 pixels, got 1 frames of 16x16"):
        frame_ms_ssim(flat(0), flat(0))
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        difference_psnr(flat(0), flat(0))
