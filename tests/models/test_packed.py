"""Places side by side in one sequence give what each gives by itself."""

import copy

import pytest
import torch

from tests.models.networks import stdit_inputs, tiny_stdit
from videoaccel.models.packed import TILE, pack, places_together, side_by_side
from videoaccel.models.seam import attention


@pytest.mark.parametrize(("count", "frames"), [(48, 15), (7, 3), (30, 5), (4, 100), (1, 1), (96, 1)])
def test_places_stay_apart(count: int, frames: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(count, frames, 2, 8) for _ in range(3))
    together = places_together(count, frames)
    assert count % together == 0
    assert together == 1 or together * frames <= TILE
    torch.testing.assert_close(side_by_side(q, k, v), attention(q, k, v), atol=1e-6, rtol=1e-5)


def test_an_open_sora_clip_fills_its_tiles() -> None:
    assert places_together(2 * 1590, 15) == 6


@torch.inference_mode()
def test_a_network_packs_along_time() -> None:
    model = tiny_stdit()
    inputs = stdit_inputs((3, 6, 10), batch=1)
    exact = model(**inputs)
    packed = copy.deepcopy(model)
    assert pack(packed) == len(model.temporal_blocks)
    torch.testing.assert_close(packed(**inputs), exact, atol=1e-5, rtol=1e-4)
