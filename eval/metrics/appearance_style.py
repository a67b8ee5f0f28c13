"""How well frames fit the words for the prompt's style, by CLIP ViT-B/32 (Radford et al. 2021)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.likeness import cosines
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score
from videoaccel.eval.networks.clip import CLIP_B32, load_clip_text, load_clip_vision
from videoaccel.eval.networks.clip_tokens import CLIP_WORDS, load_tokenizer
from videoaccel.eval.sampling import clip_pil_pictures

CONTEXT = 77


class AppearanceStyle(ClipMetric):
    """Appearance style, a cosine of about 0.2 to 0.3; in a set every frame counts the same.

    The style is the prompt's ``auxiliary_info``; clips without one have no such score.
    """

    title: ClassVar[str] = "appearance style"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (CLIP_B32, CLIP_WORDS)

    def build(self, backbones: Backbones) -> None:
        """Load both halves of CLIP."""
        self.vision = backbones.share("clip_b32", lambda: load_clip_vision(backbones, CLIP_B32))
        self.text = load_clip_text(backbones, CLIP_B32)
        self.tokenizer = load_tokenizer(backbones)

    def measure(self, sample: Sample) -> Score:
        """The mean over all frames."""
        style = sample.about.get("appearance_style")
        if not style:
            raise NotApplicable("the prompt names no appearance_style")
        words = self.text.features(self.tokenizer([style], CONTEXT))
        values = cosines(self.vision.features(clip_pil_pictures(sample.frames)), words, scale=self.text.scale)
        return Score(sum(values) / len(values), weight=len(values), frames=tuple(values))
