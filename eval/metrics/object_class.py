"""Whether the object of the prompt is there, by GRiT's detections (Wu et al. 2022)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.detections import GRIT
from videoaccel.eval.metric import Score
from videoaccel.eval.official import OfficialMetric, share_of_frames


class ObjectClass(OfficialMetric):
    """Object class: the share of frames with the object; see `videoaccel.eval.detections.frames_with`."""

    title: ClassVar[str] = "object class"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (GRIT,)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Score:
        """A clip's score from its entry."""
        return share_of_frames(entry)
