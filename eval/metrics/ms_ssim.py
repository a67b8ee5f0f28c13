"""Structural similarity to the reference over five scales (Wang et al. 2003)."""

from typing import ClassVar

from videoaccel.eval.fidelity import MS_WINDOW, frame_ms_ssim
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score, reference_of


class MsSsim(ClipMetric):
    """MS-SSIM, at most 1; smaller pictures than 176 pixels a side have none."""

    title: ClassVar[str] = "MS-SSIM"
    needs_reference: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """The mean over frames."""
        reference = reference_of(sample)
        height, width = sample.frames.shape[1:3]
        if min(height, width) < MS_WINDOW:
            raise NotApplicable(
                f"five scales need pictures of at least {MS_WINDOW} pixels a side, got {height}x{width}"
            )
        values = frame_ms_ssim(sample.frames, reference)
        return Score(float(values.mean()), frames=tuple(values.tolist()))
