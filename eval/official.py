"""Dimensions whose networks are not in this project, for their licence or size: the official package runs them.

The formulas are here, and how a result of the official package is read.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from videoaccel.eval.metric import ClipMetric, Sample, Score


class OfficialMetric(ClipMetric):
    """Base of metrics that count results of the official ``vbench`` package.

    ``metric.count(Metric.read(entry))`` takes one entry of its ``*_eval_results.json``.
    """

    official: ClassVar[bool] = True

    def measure(self, sample: Sample) -> Score:
        """Not here.

        Raises:
            ValueError: Always; says what does it.
        """
        raise ValueError(f"{self.title} needs networks of the official vbench package; it is not measured here")

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Score:
        """A clip's score from its entry ``{"video_path": ..., "video_results": ...}``."""
        return Score(float(entry["video_results"]))


def share_of_frames(entry: Mapping[str, Any]) -> Score:
    """The score of an entry that counts frames: every frame of the set counts the same."""
    success, frames = int(entry["success_frame_count"]), int(entry["frame_count"])
    return Score(success / frames, weight=frames, details={"success_frame_count": success, "frame_count": frames})
