"""How different frames look to AlexNet (Zhang et al. 2018)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.metric import ClipMetric, Sample, Score, reference_of
from videoaccel.eval.perceptual import ALEXNET, Lpips, frame_lpips


class LpipsMetric(ClipMetric):
    """LPIPS with AlexNet; 0 for equal clips, smaller is better."""

    title: ClassVar[str] = "LPIPS"
    higher_is_better = False
    needs_reference: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (ALEXNET,)

    def build(self, backbones: Backbones) -> None:
        """Load AlexNet."""
        self.network = backbones.share("lpips", lambda: Lpips.from_backbones(backbones))

    def measure(self, sample: Sample) -> Score:
        """The mean over frames."""
        values = frame_lpips(self.network, sample.frames, reference_of(sample))
        return Score(float(values.double().mean()), frames=tuple(values.tolist()))
