"""The compiled transformer, with the compiler that users get: the same numbers, and all compiling before the clock."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.tiny_pipeline import tiny_pipeline
from videoaccel.common.stages import StageClock
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import first_frame

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU takes a C++ compiler"),
]


@pytest.fixture(scope="module")
def compiled() -> Iterator[VideoPipeline]:
    torch.compiler.reset()
    pipe = tiny_pipeline()
    pipe.transformer.compile()
    yield pipe
    torch.compiler.reset()


def graphs() -> int:
    """How many the compiler has made so far."""
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    "options",
    [{}, {"references": first_frame(torch.linspace(-1, 0.5, 32).expand(3, 1, 32, 32))}],
    ids=["text", "first frame"],
)
def test_compiled_is_the_same_and_warmed_up_before_the_steps(compiled: VideoPipeline, options: dict[str, Any]) -> None:
    made: dict[str, int] = {}
    clock = StageClock(lambda stage, done, total: made.setdefault(f"{stage} {done}", graphs()))
    before = graphs()
    found = compiled.latents(compiled.request("a red circle", seed=3, **options), clock=clock)
    plain = tiny_pipeline()
    exact = plain.latents(plain.request("a red circle", seed=3, **options))
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)
    assert clock.seconds["compile"] > 0
    assert made["compile 0"] == before < made["denoise 0"], "the warm-up compiles"
    assert graphs() == made["denoise 0"], "and nothing is left to compile for the steps that are timed"
