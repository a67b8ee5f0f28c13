"""Whether a clip of the demo world has every actor's motion right."""

from typing import ClassVar

from videoaccel.eval.oracle import Attribute
from videoaccel.eval.world_metric import WorldMetric


class WorldMotion(WorldMetric):
    """Share of actors whose motion is as the sentence says."""

    title: ClassVar[str] = "motion"
    attribute: ClassVar[Attribute] = "motion"
