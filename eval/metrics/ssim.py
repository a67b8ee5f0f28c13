"""Structural similarity to the reference (Wang et al. 2004)."""

from typing import ClassVar

from videoaccel.eval.fidelity import WINDOW, frame_ssim
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score, reference_of


class Ssim(ClipMetric):
    """SSIM, at most 1, the mean over windows inside the picture and over frames."""

    title: ClassVar[str] = "SSIM"
    needs_reference: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """The mean over frames."""
        reference = reference_of(sample)
        if min(sample.frames.shape[1:3]) < WINDOW:
            raise NotApplicable(f"needs pictures of at least {WINDOW} pixels a side, got {shape(sample)}")
        values = frame_ssim(sample.frames, reference)
        return Score(float(values.mean()), frames=tuple(values.tolist()))


def shape(sample: Sample) -> str:
    """Height and width, for messages."""
    return f"{sample.frames.shape[1]}x{sample.frames.shape[2]}"
