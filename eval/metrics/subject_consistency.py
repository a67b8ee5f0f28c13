"""How much the subject keeps its looks, by DINO's features (Caron et al. 2021)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.consistency import consistency
from videoaccel.eval.metric import ClipMetric, Sample, Score
from videoaccel.eval.networks.dino import DINO_B16, load_dino
from videoaccel.eval.sampling import dino_pictures


class SubjectConsistency(ClipMetric):
    """Subject consistency, 0 to 1; in a set every frame counts the same."""

    title: ClassVar[str] = "subject consistency"
    requires: ClassVar[tuple[Backbone, ...]] = (DINO_B16,)

    def build(self, backbones: Backbones) -> None:
        """Load DINO."""
        self.network = load_dino(backbones)

    def measure(self, sample: Sample) -> Score:
        """Over all frames of the clip."""
        return consistency(self.network.features(dino_pictures(sample.frames)))
