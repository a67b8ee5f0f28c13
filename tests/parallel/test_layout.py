"""One video from several ranks: the sequence layout against one device."""

import pytest
import torch

from tests.models.table import NETWORKS
from tests.parallel import work
from tests.ranks import RankPools

CASES = [
    ("stdit", (3, 7, 9), {}),  # odd sizes, given frames, ragged text, batched guidance
    ("stdit", (1, 4, 6), {"lengths": (5, 5), "given": False}),
    ("stdit", (5, 8, 8), {"lengths": None, "guided": False}),
    ("stdit", (2, 3, 5), {"batch": 1, "lengths": (7,)}),
    ("latte", (4, 6, 10), {}),
    ("latte", (1, 6, 10), {"lengths": (5, 5)}),
    ("latte", (4, 2, 14), {"lengths": None, "guided": False}),
    ("latte", (4, 6, 6), {"batch": 1, "lengths": (7,), "temporal": False}),
]


@pytest.mark.parametrize("name, size, options", CASES)
@pytest.mark.parametrize("count", [2, 3])
@torch.inference_mode()
def test_ranks_give_the_video_of_one(
    ranks: RankPools, count: int, name: str, size: tuple[int, int, int], options: dict
) -> None:
    row = NETWORKS[name]
    expected = row.make(2)(**row.inputs(size, **options))
    outputs = [out for out, _ in ranks(count).run(work.sharded, name, size, options)]
    for out in outputs:
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(out, outputs[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_are_those_of_the_cost_model(ranks: RankPools, name: str) -> None:
    """2 M (N-1)/N^2 a pair for the switches, and one gather of the small output."""
    size, count, pairs = (4, 8, 8), 2, 2
    _, sent = ranks(count).run(work.sharded, name, size, {})[0]
    whole = 4 * 4 * 16 * 48 * 4  # rows, frames, places, channels, bytes
    assert sent["all_to_all"] == pairs * 2 * whole * (count - 1) // count**2
    assert sent["all_gather"] == 4 * 4 * 16 * 32 * 4 * (count - 1) // count


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_session_skips_is_not_sent(ranks: RankPools, name: str) -> None:
    _, sent = ranks(2).run(work.sharded_without_spatial_attention, name, (4, 8, 8))[0]
    assert "all_to_all" not in sent and sent["all_gather"] > 0


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_pruning_shrinks_the_switch(ranks: RankPools, name: str) -> None:
    """Half of the columns as queries: queries and their results travel for these only."""
    results = ranks(2).run(work.sharded_and_pruned, name, (4, 8, 8), 8)
    whole = 4 * 4 * 16 * 48 * 4 // 4
    assert results[0][1]["all_to_all"] == 2 * (whole // 2 + whole + whole // 2)
    assert torch.equal(results[0][0], results[1][0])
