"""Peak signal-to-noise ratio against the reference, the mean over frames, as PAB's and TeaCache's scripts take it."""

import math
from typing import ClassVar

from videoaccel.eval.fidelity import CEILING, frame_psnr, mean_psnr
from videoaccel.eval.metric import ClipMetric, Sample, Score, reference_of


class Psnr(ClipMetric):
    """PSNR, dB. A clip that equals its reference has none and counts as 100 dB."""

    title: ClassVar[str] = "PSNR"
    unit: ClassVar[str] = "dB"
    needs_reference: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """The mean over frames; infinite if all are the same."""
        values = frame_psnr(sample.frames, reference_of(sample)).tolist()
        value = mean_psnr(values)
        return Score(value, counted=min(value, CEILING), frames=tuple(values), details={"identical": value == math.inf})
