"""Bytes and padding foretold, against what ranks count and against the published formulas."""

import pytest

from tests.parallel import work
from tests.ranks import RankPools
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.traffic import Stream, load, switch_bytes

OPEN_SORA = Stream(rows=2, frames=30, places=3600, width=1152, heads=16, number=2, layers=28, out=32, latent=1)
"""720p, 102 frames, bfloat16."""


def stream_of(size: tuple[int, int, int]) -> Stream:
    """The tiny STDiT3 with two samples and guidance."""
    places = -(-size[1] // 2) * -(-size[2] // 2)
    return Stream(4, size[0], places, 48, 4, 4, 2, 32, 0)


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 7, 9), (1, 5, 5)])
@pytest.mark.parametrize("scheme", ["dsp", "ulysses"])
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_send_what_was_foretold(ranks: RankPools, size: tuple[int, int, int], scheme: str, count: int) -> None:
    told = load(stream_of(size), Degrees(1, 1, count), scheme=scheme)
    for _, sent in ranks(count).run(work.run_forward, ("stdit", size, {}), {"scheme": scheme}):
        assert (sent["all_to_all"], sent["all_gather"]) == (told.switched, told.gathered)


@pytest.mark.parametrize("scheme", ["dsp", "ulysses"])
@pytest.mark.parametrize("keys", ["kept", "all"])
def test_pruned_switches_too(ranks: RankPools, scheme: str, keys: str) -> None:
    told = 2 * switch_bytes(stream_of((4, 8, 8)), 2, scheme=scheme, groups=8, keep=0.5, keys=keys)
    options = {"action": work.partial(0.5, keys), "scheme": scheme}
    assert ranks(2).run(work.run_forward, ("stdit", (4, 8, 8), {}), options)[0][1]["all_to_all"] == told


def test_published_numbers() -> None:
    """720p, T = 30, 8 ranks, one pair: 109 MB by switching, twice by heads, 8 times by a ring (M = 498 MB)."""
    switched = switch_bytes(OPEN_SORA._replace(frames=32), 8, scheme="dsp")
    assert switched == 2 * OPEN_SORA._replace(frames=32).bytes * 7 // 64
    assert switch_bytes(OPEN_SORA._replace(frames=32), 8, scheme="ulysses") == 2 * switched
    assert switch_bytes(OPEN_SORA._replace(frames=32), 8, scheme="ring") == 8 * switched
    assert OPEN_SORA.bytes == pytest.approx(498e6, rel=0.001)


def test_few_frames_on_many_ranks_waste_their_time() -> None:
    short = OPEN_SORA._replace(frames=5)
    assert load(short, Degrees(1, 1, 8), scheme="dsp").frame_waste == pytest.approx(0.6)
    assert load(short, Degrees(1, 2, 4), scheme="dsp").frame_waste == pytest.approx(0.6)
    assert load(short, Degrees(1, 1, 8), scheme="ulysses").frame_waste == 0
    assert load(short, Degrees(1, 1, 3), scheme="dsp", groups=8).place_waste == pytest.approx(0.125)
