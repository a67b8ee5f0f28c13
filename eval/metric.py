"""What every metric is: a pure function of one clip, and a torchmetrics state that merges over ranks.

A metric of this project lives in ``eval/metrics/NAME.py`` as the one subclass of `ClipMetric` there. Its `measure` says
what one clip is worth; the set's score is the weighted mean of the clips, added up without rounding, so that it is the
same for any number of ranks and in any order.

Shape legend: T frames, H, W pixels.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from videoaccel.eval.backbones import Backbone, Backbones


class NotApplicable(ValueError):  # noqa: N818 (nothing went wrong)
    """A clip for which the metric is not defined; the message says why. It is listed, and no failure."""


@dataclass(frozen=True)
class Sample:
    """One clip to be measured.

    Attributes:
        name: What results call it; for VBench's dimensions its file name, of which human_action reads the action.
        frames: uint8 [T, H, W, 3], RGB.
        fps: Frames per second.
        reference: The clip that it should be, of the same shape, for fidelity.
        prompt: What it should show.
        about: VBench's ``auxiliary_info`` of the prompt.
    """

    name: str
    frames: Tensor
    fps: float = 24.0
    reference: Tensor | None = None
    prompt: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """What one clip is worth.

    Attributes:
        value: The clip's own number, in the metric's unit; infinite for the PSNR of equal clips.
        weight: How much it counts in the set's mean.
        counted: What counts there in place of ``value``.
        frames: The value of every frame, or pair of frames, where there is one.
        details: More that the result should hold, plain values only.
    """

    value: float
    weight: float = 1.0
    counted: float | None = None
    frames: tuple[float, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """What counts in the set's mean."""
        return self.value if self.counted is None else self.counted


def set_score(scores: Iterable[Score]) -> float:
    """Weighted mean of clips, the same in any order; not a number without clips.

    >>> set_score([Score(1.0, weight=3), Score(0.0)])
    0.75
    """
    return _mean((score.share, score.weight) for score in scores)


class ClipMetric(Metric):
    """Base of all metrics.

    Args:
        backbones: Where the files of networks are; those of `Backbones()` unless given.
        kwargs: Those of `torchmetrics.Metric`.

    Raises:
        MissingBackbone: A file is not there; lists all that this metric needs and lacks.
    """

    higher_is_better: bool | None = True  # None where 1 is best
    is_differentiable = False
    full_state_update = False
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    requires: ClassVar[tuple[Backbone, ...]] = ()
    needs_reference: ClassVar[bool] = False
    needs_prompt: ClassVar[bool] = False
    official: ClassVar[bool] = False
    """Its networks are not in this project: the official package runs them."""
    shares: list[Tensor]
    weights: list[Tensor]

    def __init__(self, *, backbones: Backbones | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("shares", [], dist_reduce_fx="cat")
        self.add_state("weights", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)  # also of the empty states of a rank without clips
        found = backbones or Backbones()
        found.check(self.requires)
        self.build(found)

    def build(self, backbones: Backbones) -> None:
        """Make the networks; metrics without any leave this out."""

    @abstractmethod
    def measure(self, sample: Sample) -> Score:
        """Score one clip; changes no state.

        Raises:
            NotApplicable: The metric is not defined for this clip.
            ValueError: The clip cannot be measured.
        """

    def update(self, sample: Sample) -> None:
        """Measure a clip and count it."""
        self.count(self.measure(sample))

    def count(self, score: Score) -> None:
        """Count a clip that was measured before."""
        self.shares.append(torch.tensor([score.share], dtype=torch.float64, device=self.device))
        self.weights.append(torch.tensor([score.weight], dtype=torch.float64, device=self.device))
        self._update_count += 1
        self._computed = None

    def compute(self) -> Tensor:
        """The set's score, float64; not a number before the first clip."""
        shares, weights = (_flat(state) for state in (self.shares, self.weights))
        return torch.tensor(_mean(zip(shares, weights, strict=True)), dtype=torch.float64)

    @classmethod
    def badness(cls, value: float) -> float:
        """Larger for worse clips, to name the worst."""
        return -value if cls.higher_is_better else value


def reference_of(sample: Sample) -> Tensor:
    """The clip that a sample should be.

    Raises:
        NotApplicable: There is none.
    """
    if sample.reference is None:
        raise NotApplicable("there is no reference clip")
    return sample.reference


def pairs_needed(frames: Tensor) -> None:
    """Make sure that there are two frames to compare.

    Raises:
        ValueError: There are not.
    """
    if len(frames) < 2:
        raise ValueError(f"changes between frames need at least 2 frames, got {len(frames)}")


def _flat(state: Any) -> list[float]:
    parts = state if isinstance(state, list) else [state]
    return [float(value) for part in parts for value in part.flatten()]


def _mean(shares: Iterable[tuple[float, float]]) -> float:
    pairs = list(shares)
    weight = math.fsum(weight for _, weight in pairs)
    return math.fsum(share * weight for share, weight in pairs) / weight if weight else math.nan
