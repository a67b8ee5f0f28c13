"""Whether a clip of the demo world has the background right."""

from typing import ClassVar

from videoaccel.eval.oracle import Attribute
from videoaccel.eval.world_metric import WorldMetric


class WorldBackground(WorldMetric):
    """Share of clips whose background is as the sentence says."""

    title: ClassVar[str] = "background"
    attribute: ClassVar[Attribute] = "background"
