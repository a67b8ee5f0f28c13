"""How much the scene keeps its looks, by CLIP's features of whole pictures (Radford et al. 2021)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.consistency import consistency
from videoaccel.eval.metric import ClipMetric, Sample, Score
from videoaccel.eval.networks.clip import CLIP_B32, load_clip_vision
from videoaccel.eval.sampling import clip_pictures


class BackgroundConsistency(ClipMetric):
    """Background consistency, 0 to 1; in a set every frame counts the same."""

    title: ClassVar[str] = "background consistency"
    requires: ClassVar[tuple[Backbone, ...]] = (CLIP_B32,)

    def build(self, backbones: Backbones) -> None:
        """Load CLIP ViT-B/32."""
        self.network = backbones.share("clip_b32", lambda: load_clip_vision(backbones, CLIP_B32))

    def measure(self, sample: Sample) -> Score:
        """Over all frames of the clip."""
        return consistency(self.network.features(clip_pictures(sample.frames)))
