from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import RankPools, rank_pools


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither look into the user's cache nor leave anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPools]:
    with rank_pools() as pools:
        yield pools


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with tiny random networks; do not write into it."""
    from tests.tiny_pipeline import tiny_pipeline  # torch and all: only for tests that need it

    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline().save_pretrained(folder)
    return folder
