"""One video from several ranks: the layouts against one device."""

from typing import Any

import pytest
import torch

from tests.models.table import NETWORKS
from tests.parallel import work
from tests.ranks import RankPools
from videoaccel.models.seam import Site
from videoaccel.parallel.layout import MeshLayout
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.shards import Shards

CASES: list[tuple[str, tuple[int, int, int], dict[str, Any]]] = [
    ("stdit", (3, 7, 9), {}),  # odd sizes, given frames, ragged text, batched guidance
    ("stdit", (1, 4, 6), {"lengths": (5, 5), "given": False}),
    ("stdit", (5, 8, 8), {"lengths": None, "guided": False}),
    ("stdit", (2, 3, 5), {"batch": 1, "lengths": (7,)}),  # T = N = 2 with given frames: errors that cancel out
    ("latte", (4, 6, 10), {}),
    ("latte", (1, 6, 10), {"lengths": (5, 5)}),
    ("latte", (4, 2, 14), {"lengths": None, "guided": False}),
    ("latte", (4, 6, 6), {"batch": 1, "lengths": (7,), "temporal": False}),
    ("dit", (1, 6, 10), {}),
    ("pixart", (1, 6, 10), {}),
    ("pixart", (1, 2, 14), {"lengths": (5, 5), "guided": False}),
]

COUNTS = [2, 3, 4, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
"""More than there are frames, too."""


@pytest.mark.parametrize("name, size, options", CASES)
@pytest.mark.parametrize("scheme", ["dsp", "ulysses"])
@pytest.mark.parametrize("count", COUNTS)
@torch.inference_mode()
def test_ranks_give_the_video_of_one(
    ranks: RankPools, count: int, scheme: str, name: str, size: tuple[int, int, int], options: dict
) -> None:
    row = NETWORKS[name]
    expected = row.make(2)(**row.inputs(size, **options))
    outputs = [out for out, _ in ranks(count).run(work.run_forward, (name, size, options), {"scheme": scheme})]
    for out in outputs:
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(out, outputs[0])


@pytest.mark.parametrize("keys", ["kept", "all"])
@pytest.mark.parametrize("scheme", ["dsp", "ulysses"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size, keep", [((4, 8, 8), 0.5), ((3, 7, 9), 0.3), ((2, 3, 5), 0.6), ((1, 4, 26), 0.4)])
def test_pruning_keeps_the_columns_of_one_rank(
    ranks: RankPools, count: int, size: tuple[int, int, int], keep: float, scheme: str, keys: str
) -> None:
    """Whatever the number of ranks divides; short and empty groups, too."""
    task = ("stdit", size, {"given": False}), {"action": work.partial(keep, keys), "scheme": scheme}
    expected, _ = work.run_forward(*task)
    for out, _ in ranks(count).run(work.run_forward, *task):
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_random_columns_are_those_of_one_rank(ranks: RankPools) -> None:
    task = ("stdit", (2, 7, 9), {}), {"action": work.partial(0.5, "all"), "select": "random"}
    expected, _ = work.run_forward(*task)
    for out, _ in ranks(3).run(work.run_forward, *task):
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 7, 9), (1, 5, 5)])
@pytest.mark.parametrize("count", [2, 3])
def test_bytes_are_those_of_the_cost_model(ranks: RankPools, size: tuple[int, int, int], count: int) -> None:
    """2 M' (N-1)/N^2 a pair for the switches, and one gather of the small output."""
    frames, places = size[0], -(-size[1] // 2) * -(-size[2] // 2)
    whole = 4 * (-(-frames // count) * count) * (-(-places // count) * count) * 48 * 4
    for _, sent in ranks(count).run(work.run_forward, ("stdit", size, {}), {}):
        assert sent["all_to_all"] == 2 * 2 * whole * (count - 1) // count**2
        each = -(-places // count)
        assert sent["all_gather"] == 4 * frames * each * 32 * 4 * (count - 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_ulysses_sends_twice_as_much(ranks: RankPools, name: str) -> None:
    """Of clips; the one frame of an image cannot be shared out, so the rank that has none pads as much again."""
    _, dsp = ranks(2).run(work.run_forward, (name, (NETWORKS[name].frames, 8, 8), {}), {})[0]
    _, ulysses = ranks(2).run(work.run_forward, (name, (NETWORKS[name].frames, 8, 8), {}), {"scheme": "ulysses"})[0]
    assert ulysses["all_to_all"] == (2 if NETWORKS[name].frames > 1 else 1) * dsp["all_to_all"]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_session_skips_is_not_sent(ranks: RankPools, name: str) -> None:
    _, sent = ranks(2).run(work.run_forward, (name, (NETWORKS[name].frames, 8, 8), {}), {"skip_space": True})[0]
    assert "all_to_all" not in sent and sent["all_gather"] > 0


@pytest.mark.parametrize("keys, share", [("kept", 0.5), ("all", 0.75)])
@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_shrinks_the_switch(ranks: RankPools, name: str, keys: str, share: float) -> None:
    """Half of the columns: r of the bytes, or (1 + r)/2 where keys and values of all travel."""
    _, dense = ranks(2).run(work.run_forward, (name, (NETWORKS[name].frames, 8, 8), {}), {})[0]
    _, sent = ranks(2).run(
        work.run_forward, (name, (NETWORKS[name].frames, 8, 8), {}), {"action": work.partial(0.5, keys)}
    )[0]
    assert sent["all_to_all"] == share * dense["all_to_all"]


def test_shards_own_whole_groups() -> None:
    for places in range(1, 40):
        for count in range(1, 10):
            shards = Shards(places, count, 8)
            assert shards.each % shards.length == 0
            assert sum(shards.here(rank) for rank in range(count)) == places
            assert sum(shards.kept(1)) == -(-places // shards.length)


def test_a_layout_says_where_its_rank_is_without_a_sequence_to_share() -> None:
    """Ranks of guidance-parallel mix everything on their own; a report of one that is lost names the module."""
    mesh = Mesh()
    layout = MeshLayout(mesh, Shards(6), ("cond", "uncond"))
    site = Site("mlp", "time", 3)
    mixed = layout.mix(site, Plain(), torch.ones(1, 2, 6, 4), None)
    assert mixed.eq(2).all()
    assert mesh.where.site == site


class Plain:
    """A branch that doubles."""

    def mix(self, h: torch.Tensor, cond: object) -> torch.Tensor:
        return 2 * h
