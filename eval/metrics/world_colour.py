"""Whether a clip of the demo world has every actor's colour right."""

from typing import ClassVar

from videoaccel.eval.oracle import Attribute
from videoaccel.eval.world_metric import WorldMetric


class WorldColour(WorldMetric):
    """Share of actors whose colour is as the sentence says."""

    title: ClassVar[str] = "colour"
    attribute: ClassVar[Attribute] = "colour"
