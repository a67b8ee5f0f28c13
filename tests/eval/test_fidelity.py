"""PSNR and SSIM against numbers that were worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from videoaccel.eval.fidelity import CEILING, ClipPSNR, ClipSSIM, frame_psnr, frame_ssim, mean_psnr


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


def test_metrics_average_clips_and_merge() -> None:
    clips, wanted = torch.stack([flat(10, 20), flat(7, 7)]), torch.stack([flat(0, 0), flat(7, 7)])
    first = (20 * math.log10(255 / 10) + 20 * math.log10(255 / 20)) / 2
    a, b = ClipPSNR(), ClipPSNR()
    a.update(clips[:1], wanted[:1])
    b.update(clips[1:], wanted[1:])
    assert b.compute() == math.inf
    a.merge_state(b)
    assert a.compute().item() == pytest.approx((first + CEILING) / 2, abs=1e-4)
    similar = ClipSSIM()
    similar.update(clips[1:], wanted[1:])
    assert similar.compute().item() == pytest.approx(1.0)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 frames of 16x16, the one that it should be 1 frames"):
        frame_psnr(flat(0, 0), flat(0))
    with pytest.raises(ValueError, match="uint8"):
        frame_psnr(flat(0).float(), flat(0))
    with pytest.raises(ValueError, match="at least 11x11"):
        frame_ssim(flat(0, side=10), flat(0, side=10))
