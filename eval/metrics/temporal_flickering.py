"""How little pixels change from one frame to the next; VBench's only dimension without a network."""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from videoaccel.eval.metric import ClipMetric, Sample, Score


def pair_errors(frames: Tensor) -> list[float]:
    """Mean absolute change [T - 1] in grey levels, of uint8 [T, H, W, 3].

    Raises:
        ValueError: There is a single frame.
    """
    if len(frames) < 2:
        raise ValueError(f"changes between frames need at least 2 frames, got {len(frames)}")
    return [float((b.short() - a.short()).abs().sum()) / a.numel() for a, b in pairwise(frames)]


def steadiness(errors: list[float]) -> float:
    """255 less the mean error, over 255: 1 for a still picture."""
    return (255 - sum(errors) / len(errors)) / 255


class TemporalFlickering(ClipMetric):
    """Temporal flickering, 0 to 1; higher is steadier, and a still picture has 1."""

    title: ClassVar[str] = "temporal flickering"

    def measure(self, sample: Sample) -> Score:
        """Over all frames of the clip."""
        errors = pair_errors(sample.frames)
        return Score(steadiness(errors), frames=tuple(steadiness([error]) for error in errors))
