"""Reading what a video starts from."""

import pytest
import torch

from videoaccel.generation.references import read_clip


def test_the_beginning_of_a_clip_can_be_read_alone(clip: str, picture: str) -> None:
    whole = read_clip(clip, height=16, width=24)
    assert whole.shape == (3, 20, 16, 24)
    assert torch.equal(read_clip(clip, height=16, width=24, max_frames=5), whole[:, :5])
    assert read_clip(clip, height=16, width=24, max_frames=99).shape == whole.shape
    assert read_clip(picture, height=16, width=24, max_frames=5).shape == (3, 1, 16, 24)
    with pytest.raises(ValueError, match="max_frames must be at least 1; got 0"):
        read_clip(clip, height=16, width=24, max_frames=0)
