"""Whether the object has the colour of the prompt, by GRiT's captions of regions (Wu et al. 2022)."""

from typing import ClassVar

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.detections import GRIT
from videoaccel.eval.official import OfficialMetric


class Color(OfficialMetric):
    """Color: of the frames where the object has a known colour, the share with the right one.

    See `videoaccel.eval.detections.colour_frames`. The official code leaves out clips where the object is never seen.
    """

    title: ClassVar[str] = "color"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (GRIT,)
