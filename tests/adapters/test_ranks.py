"""A network that diffusers' context parallelism spreads over ranks: all decide alike."""

import pytest

from tests.adapters.rank_work import measured_over_ranks, wan_over_ranks
from tests.ranks import RankPools


@pytest.mark.parametrize(
    ("method", "threshold"),
    [("sada", 1e6), ("sada", 0.3), ("fixed_linear", None), ("first_block", 0.05), ("taylorseer", None)],
)
def test_decisions_are_equal_on_all_ranks(ranks: RankPools, method: str, threshold: float | None) -> None:
    results = ranks(2).run(wan_over_ranks, method, threshold)
    for alone, spread, away, agreed in results:
        assert alone == spread == results[0][1] and len(spread) < 12 and away < 1e-5
        assert agreed == [0.0, 7.0], "the first rank's"


@pytest.mark.parametrize("method", ["teacache", "adacache"])
def test_what_each_rank_has_measured_of_its_part_leads_to_one_decision(ranks: RankPools, method: str) -> None:
    (one, measured), (two, other) = ranks(2).run(measured_over_ranks, method)
    assert one == two and 1 < len(one) < 12
    assert measured != other, "each has a part of the tokens"
