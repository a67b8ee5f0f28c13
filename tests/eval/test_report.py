"""Which clips a report shows."""

from pathlib import Path

from videoaccel.eval.metric import Score
from videoaccel.evaluation.clips import ClipFile
from videoaccel.evaluation.page import _shown_clips
from videoaccel.evaluation.rows import Row
from videoaccel.evaluation.table import summarise

VALUES = {"psnr": (10.0, 20.0, 30.0, 40.0), "ssim": (0.9, 0.1, 0.2, 0.95), "world_motion": (1.0, 1.0, 1.0, 1.0)}


def test_worst_clips_are_those_of_the_table() -> None:
    """a is worst by PSNR, b by SSIM and altogether; that d comes last by name where all are equal says nothing."""
    rows = {
        metric: [Row(name, metric, "", Score(value)) for name, value in zip("abcd", values, strict=True)]
        for metric, values in VALUES.items()
    }
    results = [summarise(metric, found) for metric, found in rows.items()]
    clips = [ClipFile(name, Path(name)) for name in "abcd"]
    assert [result.worst for result in results] == ["a", "b", None]
    assert [clip.name for clip in _shown_clips(results, rows, clips)] == ["b", "a", "c"]
