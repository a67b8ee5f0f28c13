"""Several clips by one call: each is what it is alone, as far as networks allow, and one decision serves them all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.tiny import Tiny
from videoaccel.generation.accelerate import accelerate

SYSTEMS: dict[str, tuple[Callable[[], Tiny], str]] = {
    "wan, two calls, unipc": (videos.wan, "num_videos_per_prompt"),
    "sdxl, a batch of branches": (images.stable_diffusion_xl, "num_images_per_prompt"),
    "flux": (images.flux, "num_images_per_prompt"),
    "hunyuan video": (videos.hunyuan, "num_videos_per_prompt"),
}
SEEDS = (0, 5)


def together(tiny: Tiny, argument: str, **options: Any) -> list[Tensor]:
    """What two clips of one call are, each with a generator of its own."""
    return call(tiny, [torch.Generator().manual_seed(seed) for seed in SEEDS], **{argument: len(SEEDS)}, **options)


def call(tiny: Tiny, generator: Any, **options: Any) -> list[Tensor]:
    torch.manual_seed(7)
    out = tiny.pipe(num_inference_steps=12, generator=generator, **{**tiny.options, **options})
    return [torch.as_tensor(one).float() for one in out.values() if isinstance(one, Tensor) or hasattr(one, "shape")]


@pytest.mark.parametrize("name", SYSTEMS)
def test_off_gives_the_bits_of_a_plain_batch_and_forecasts_those_of_single_clips(name: str) -> None:
    make, argument = SYSTEMS[name]
    tiny = make()
    plain = together(tiny, argument)
    with accelerate(tiny.pipe, "off"):
        assert all(map(torch.equal, together(tiny, argument), plain))
    with accelerate(tiny.pipe, "taylorseer") as fast:
        both = together(tiny, argument)
        computed = fast.computed
        assert len(computed) < 12 and any(not torch.equal(a, b) for a, b in zip(both, plain, strict=True))
        for row, seed in enumerate(SEEDS):
            alone = call(tiny, torch.Generator().manual_seed(seed))
            assert fast.computed == computed
            for whole, one in zip(both, alone, strict=True):
                torch.testing.assert_close(whole[row : row + 1], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("threshold", "alone", "both"), [
    (0.2, ([6, 7], [6]), [6]),
    (0.3, ([1, 2, 4, 5, 7, 8, 10], [1, 2, 4, 6, 7, 8, 10]), [1, 2, 4, 6, 7, 8, 10]),
])  # fmt: skip
def test_a_batch_skips_what_all_of_its_samples_may(
    threshold: float, alone: tuple[list[int], list[int]], both: list[int]
) -> None:
    tiny = images.flux()
    with accelerate(tiny.pipe, "first_block", threshold=threshold) as fast:

        def skipped() -> list[int]:
            return [i for i in range(12) if i not in fast.computed]

        for seed, wanted in zip(SEEDS, alone, strict=True):
            call(tiny, torch.Generator().manual_seed(seed))
            assert skipped() == wanted
        together(tiny, "num_images_per_prompt")
        assert skipped() == both
