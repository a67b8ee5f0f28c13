"""Whether a clip of the demo world has every actor's shape right."""

from typing import ClassVar

from videoaccel.eval.oracle import Attribute
from videoaccel.eval.world_metric import WorldMetric


class WorldShape(WorldMetric):
    """Share of actors whose shape is as the sentence says."""

    title: ClassVar[str] = "shape"
    attribute: ClassVar[Attribute] = "shape"
