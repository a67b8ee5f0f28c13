"""Frames and pictures for networks, of any length and size."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoaccel.eval.consistency import consistency
from videoaccel.eval.fidelity import frame_psnr, frame_ssim
from videoaccel.eval.metrics.temporal_flickering import pair_errors, steadiness
from videoaccel.eval.sampling import (
    clip_byte_pictures,
    clip_pictures,
    dino_pictures,
    middle_indices,
    pad,
    pad_margins,
    short_side_size,
)

SIDES = st.integers(11, 90)


@given(st.integers(1, 32), st.integers(1, 300))
def test_chosen_frames_are_there_and_in_order(count: int, total: int) -> None:
    found = middle_indices(count, total)
    assert len(found) == count and found == sorted(found) and 0 <= found[0] <= found[-1] < total
    if total >= count:
        assert len(set(found)) == count


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([8, 16]))
def test_padding_keeps_the_picture(height: int, width: int, multiple: int) -> None:
    left, right, top, bottom = pad_margins(height, width, multiple)
    assert (height + top + bottom) % multiple == 0 == (width + left + right) % multiple
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1 and max(right, bottom) < multiple


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES, st.integers(2, 4))
def test_pictures_of_any_size(height: int, width: int, frames: int) -> None:
    clip = torch.randint(256, (frames, height, width, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    padded = pad(clip.movedim(-1, 1).float(), 8)
    left, _, top, _ = pad_margins(height, width, 8)
    inside = padded[..., top : top + height, left : left + width]
    assert torch.equal(inside, clip.movedim(-1, 1).float())
    assert clip_pictures(clip, side=32).shape == clip_byte_pictures(clip, side=32).shape == (frames, 3, 32, 32)
    size = short_side_size(height, width, 32)
    assert min(size) == 32 and dino_pictures(clip, side=32).shape[-2:] == size
    brighter = clip.clamp(max=200) + 20
    assert len(frame_psnr(clip, brighter)) == len(frame_ssim(clip, brighter)) == frames
    assert float(frame_ssim(clip, brighter).max()) < 1 == float(frame_ssim(clip, clip).min().round(decimals=9))
    assert 0 <= steadiness(pair_errors(clip)) < 1 == steadiness(pair_errors(clip[:1].repeat(2, 1, 1, 1)))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 20))
def test_consistency_is_a_loop_over_frames(frames: int, channels: int) -> None:
    features = torch.randn(frames, channels, generator=torch.Generator().manual_seed(frames * 31 + channels))
    unit = [f / f.norm() for f in features]
    expected = [(max(float(unit[i - 1] @ unit[i]), 0) + max(float(unit[0] @ unit[i]), 0)) / 2 for i in range(1, frames)]
    score = consistency(features)
    assert abs(score.value - sum(expected) / len(expected)) < 1e-6 and score.weight == frames - 1
