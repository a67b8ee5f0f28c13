"""Whether captions name the prompt's scene, by Tag2Text (Huang et al. 2024)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.metric import Score
from videoaccel.eval.official import OfficialMetric, share_of_frames


class SceneMetric(OfficialMetric):
    """Scene: the share of frames whose caption names it; see `videoaccel.eval.detections.scene_frames`."""

    title: ClassVar[str] = "scene"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (
        Backbone(
            "caption_model/tag2text_swin_14m.pth",
            "https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
        ),
    )

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Score:
        """A clip's score from its entry."""
        return share_of_frames(entry)
