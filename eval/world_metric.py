"""The demo world's oracle as metrics: whether a clip shows what its sentence says, with nothing learned."""

from typing import ClassVar

from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score
from videoaccel.eval.oracle import Attribute, agreement, read
from videoaccel.eval.world import Scene


class WorldMetric(ClipMetric):
    """Share of what a clip has right of its sentence; prompts of another world have no such score."""

    needs_prompt: ClassVar[bool] = True
    attribute: ClassVar[Attribute]

    def measure(self, sample: Sample) -> Score:
        """Over the clip's actors, or of the clip."""
        try:
            scene = Scene.parse(sample.prompt or "")
        except ValueError:
            raise NotApplicable("the prompt is no sentence of the demo world") from None
        right, total = agreement(read(sample.frames.numpy(), actors=len(scene.actors)), scene)[self.attribute]
        return Score(right / total, weight=total)
