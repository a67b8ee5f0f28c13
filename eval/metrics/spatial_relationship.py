"""Whether two objects stand as the prompt says, by GRiT's boxes (Wu et al. 2022)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.detections import GRIT
from videoaccel.eval.metric import Score
from videoaccel.eval.official import OfficialMetric


class SpatialRelationship(OfficialMetric):
    """Spatial relationship: the mean over frames; see `videoaccel.eval.detections.frame_position`."""

    title: ClassVar[str] = "spatial relationship"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (GRIT,)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Score:
        """A clip's score from its entry; every frame of the set counts the same."""
        frames = tuple(float(value) for value in entry["frame_results"])
        return Score(sum(frames) / len(frames), weight=len(frames), frames=frames)
