"""How well a clip fits its prompt, by ViCLIP (Wang et al. 2024); VBench's prompts for it are about camera motion."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.likeness import text_likeness
from videoaccel.eval.metric import ClipMetric, Sample, Score
from videoaccel.eval.networks.clip_tokens import CLIP_WORDS, load_tokenizer
from videoaccel.eval.networks.viclip import VICLIP_L14, load_viclip


class TemporalStyle(ClipMetric):
    """Temporal style, a cosine of about 0.2 to 0.3 between clip and prompt."""

    title: ClassVar[str] = "temporal style"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (VICLIP_L14, CLIP_WORDS)

    def build(self, backbones: Backbones) -> None:
        """Load ViCLIP."""
        self.network = backbones.share("viclip", lambda: load_viclip(backbones))
        self.tokenizer = load_tokenizer(backbones)

    def measure(self, sample: Sample) -> Score:
        """Of eight frames of the clip."""
        return text_likeness(self.network, self.tokenizer, sample)
