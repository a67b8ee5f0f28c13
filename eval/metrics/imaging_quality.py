"""How well frames are pictured, by MUSIQ trained on SPAQ (Ke et al. 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.metric import Score
from videoaccel.eval.official import OfficialMetric

Mode = Literal["longer", "shorter", "shorter_centercrop", "None"]
_SIDE = 512


def imaging_size(height: int, width: int, mode: Mode = "longer") -> tuple[int, int]:
    """Height and width at which MUSIQ sees a picture; larger ones are made smaller, to whole pixels cut off.

    >>> imaging_size(480, 832), imaging_size(513, 300), imaging_size(720, 1280, "shorter")
    ((295, 512), (512, 299), (512, 910))
    """
    if mode == "None":
        return height, width
    measured = max(height, width) if mode == "longer" else min(height, width)
    if measured <= _SIDE:
        return height, width
    if mode == "shorter_centercrop":
        return _SIDE, _SIDE
    scale = float(_SIDE) / measured
    return int(scale * height), int(scale * width)


def imaging(values: Sequence[float]) -> Score:
    """A clip's score, 0 to 100, from MUSIQ's of its frames; in a set it counts by hundredths."""
    value = sum(values) / len(values)
    return Score(value, counted=value / 100, frames=tuple(values))


class ImagingQuality(OfficialMetric):
    """Imaging quality, 0 to 1; of a single clip, 0 to 100, as the official result has it."""

    title: ClassVar[str] = "imaging quality"
    requires: ClassVar[tuple[Backbone, ...]] = (
        Backbone(
            "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
            "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
        ),
    )

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Score:
        """A clip's score from its entry."""
        value = float(entry["video_results"])
        return Score(value, counted=value / 100)
