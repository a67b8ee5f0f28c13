"""How much a clip changes from frame to frame, over how much its reference does."""

import math
from typing import ClassVar

from videoaccel.eval.fidelity import check_pair, flicker
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score, reference_of


class FlickerRatio(ClipMetric):
    """1 for as much change as the reference has; below, motion was lost, above, flicker came in."""

    title: ClassVar[str] = "flicker ratio"
    higher_is_better = None
    needs_reference: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """The ratio of mean absolute changes; has no values by frame."""
        reference = reference_of(sample)
        check_pair(sample.frames, reference)
        change, wanted = flicker(sample.frames), flicker(reference)
        if wanted == 0:
            raise NotApplicable("the reference does not change at all")
        return Score(change / wanted, details={"change": change, "reference_change": wanted})

    @classmethod
    def badness(cls, value: float) -> float:
        """Twice as much is as bad as half as much."""
        return abs(math.log(value)) if value > 0 else math.inf
