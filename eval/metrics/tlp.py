"""How differently a clip and its reference change to AlexNet's eye (TecoGAN, Chu et al. 2020)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.fidelity import check_pair
from videoaccel.eval.metric import ClipMetric, Sample, Score, reference_of
from videoaccel.eval.perceptual import ALEXNET, Lpips, pair_lpips


class Tlp(ClipMetric):
    """tLP: 100 times the difference of LPIPS from one frame to the next; smaller is better.

    Over all pairs of frames and whole pictures; TecoGAN's script leaves out two frames at both ends and a border.
    """

    title: ClassVar[str] = "tLP"
    higher_is_better = False
    needs_reference: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (ALEXNET,)

    def build(self, backbones: Backbones) -> None:
        """Load AlexNet."""
        self.network = backbones.share("lpips", lambda: Lpips.from_backbones(backbones))

    def measure(self, sample: Sample) -> Score:
        """The mean over pairs of frames."""
        reference = reference_of(sample)
        check_pair(sample.frames, reference)
        values = 100 * (pair_lpips(self.network, reference) - pair_lpips(self.network, sample.frames)).abs().double()
        return Score(float(values.mean()), frames=tuple(values.tolist()))
