"""One process makes clip after clip: it grows no larger, keeps no file open; a callback that fails spoils nothing."""

import gc
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_pipeline import tiny_pipeline
from videoaccel.media.writer import Writer
from videoaccel.session.registry import make_policy

FILES = Path("/proc/self/fd")


def made(pipe: Any, **options: Any) -> Any:
    told = {"num_frames": 1, "num_inference_steps": 3, "seed": 3, **options}
    return pipe("a red circle", policy=make_policy("fora", period=2), output_type="np", **told).frames


def test_a_callback_that_fails_spoils_nothing() -> None:
    pipe = tiny_pipeline()
    before = made(pipe)

    def fails(pipeline: Any, i: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            raise RuntimeError("a bad day")
        return {}

    with pytest.raises(RuntimeError, match=r"^a bad day$"):
        made(pipe, callback_on_step_end=fails)
    assert np.array_equal(made(pipe), before)


@pytest.mark.slow
@pytest.mark.skipif(not FILES.is_dir(), reason="counts open files in /proc")
def test_three_hundred_generations(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    sizes, files = [], []
    for number in range(300):
        frames = np.asarray(made(pipe, seed=number))
        with Writer(tmp_path / "a.mp4", fps=8) as writer:
            writer.write((frames.reshape(-1, *frames.shape[-3:]) * 255).astype(np.uint8))
        if number % 50 == 49:
            gc.collect()
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            files.append(len(list(FILES.iterdir())))
    assert files[-1] <= files[0]
    assert sizes[-1] - sizes[1] < 32 << 10, sizes  # KiB: the largest it ever was, after the first hundred
