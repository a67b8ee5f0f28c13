"""PSNR of what changes from frame to frame, against what changes in the reference."""

import math
from typing import ClassVar

from videoaccel.eval.fidelity import CEILING, difference_mae, difference_psnr, mean_psnr
from videoaccel.eval.metric import ClipMetric, Sample, Score, reference_of


class FrameDifference(ClipMetric):
    """PSNR of frame differences, dB, with a peak of 1: late motion and jerks cost here, another colour does not.

    There is no common definition of temporal fidelity; this one is this project's own.
    """

    title: ClassVar[str] = "frame-difference PSNR"
    unit: ClassVar[str] = "dB"
    needs_reference: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """The mean over pairs of frames; infinite if all changes are the same."""
        reference = reference_of(sample)
        values = difference_psnr(sample.frames, reference).tolist()
        value = mean_psnr(values)
        details = {"mae": float(difference_mae(sample.frames, reference).mean()), "identical": value == math.inf}
        return Score(value, counted=min(value, CEILING), frames=tuple(values), details=details)
