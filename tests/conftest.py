from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.ranks import RankPools, rank_pools

os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is imported; kernels are for GPUs otherwise

if TYPE_CHECKING:
    from tests.workshop import Workshop

LONG = {
    "test_calibration.py", "test_gpu_check.py", "test_interrupts.py", "test_packaging.py", "test_demo_recipe.py",
    "test_small_models.py", "test_demo_model.py", "test_training.py",
}  # fmt: skip
"""Files of few tests that take long."""


def pytest_configure(config: pytest.Config) -> None:
    """Files go to workers in the order below, not by their numbers of tests alone."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers, long files first: one that begins last would keep a single worker busy at the end."""
    if hasattr(config, "workerinput"):
        count = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.name not in LONG, -count[item.path], str(item.path)))


_MANY = 200  # modules; fewer new ones are not worth a pass over everything there is
_frozen_at = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What was imported stays: no collection of cycles looks through it again, of which every job makes one.

    Half of the time of a tiny generation is such a pass over the half million objects of torch, diffusers and
    transformers. What a test makes is looked at as ever.
    """
    global _frozen_at
    if len(sys.modules) >= _frozen_at + _MANY:
        _frozen_at = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """At the interpreter's end imported extensions look for what is left of their objects, and would tell of these."""
    gc.unfreeze()


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


@pytest.fixture
def make(tmp_path: Path, pipeline_folder: Path) -> Workshop:
    from tests.workshop import Workshop

    return Workshop(tmp_path, pipeline_folder)


@pytest.fixture
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("given") / "picture.png"
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[:, None, None] * 6, (1, 50, 3))).save(path)
    return str(path)


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    from videoaccel.media.writer import Writer

    path = tmp_path_factory.mktemp("given") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    with Writer(path, fps=8) as writer:
        writer.write(frames)
    return str(path)
