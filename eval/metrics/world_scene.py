"""Whether a clip of the demo world has everything at once right."""

from typing import ClassVar

from videoaccel.eval.oracle import Attribute
from videoaccel.eval.world_metric import WorldMetric


class WorldScene(WorldMetric):
    """Share of clips where everything is as the sentence says."""

    title: ClassVar[str] = "whole scene"
    attribute: ClassVar[Attribute] = "scene"
