from collections.abc import Iterator

import pytest

from tests.ranks import RankPools, rank_pools


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPools]:
    with rank_pools() as pools:
        yield pools
