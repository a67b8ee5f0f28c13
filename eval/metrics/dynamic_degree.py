"""Whether a clip moves at all, by RAFT's optical flow (Teed and Deng 2020)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score
from videoaccel.eval.networks.raft import RAFT_THINGS, SMALLEST, load_raft
from videoaccel.eval.sampling import frame_interval, pad


def top_flow(flow: Tensor, *, share: float = 0.05) -> float:
    """Mean length, pixels, of the longest ``share`` of a flow's vectors [2, H, W]."""
    lengths = flow.square().sum(0).sqrt().flatten()
    return float(lengths.topk(int(share * lengths.numel())).values.mean())


def flow_threshold(height: int, width: int) -> float:
    """From which on a pair of frames moves, pixels: 6 for a picture of 256."""
    return 6.0 * min(height, width) / 256.0


def pairs_to_move(count: int) -> int:
    """How many pairs of ``count`` frames must move."""
    return round(4 * count / 16.0)


def moves(flows: Sequence[float], *, height: int, width: int, count: int) -> bool:
    """Whether enough pairs move.

    Args:
        flows: `top_flow` of every pair.
        height: Of the clip, before padding.
        width: Likewise.
        count: Frames that were looked at; with two or fewer any pair will do, still or not, as VBench has it.
    """
    threshold = flow_threshold(height, width)
    return bool(flows) and sum(flow > threshold for flow in flows) >= pairs_to_move(count)


def is_static(flows: Sequence[float], *, height: int, width: int, count: int) -> bool:
    """VBench's static filter, which chooses clips for temporal flickering.

    Args:
        flows: ``top_flow(flow, share=0.02)`` of all consecutive pairs, then of first to last and last to first.
        height: Of the clip.
        width: Likewise.
        count: Frames of the clip.
    """
    threshold, allowed = 3.0 * min(height, width) / 256.0, round(2 * count / 16.0)
    *pairs, onward, back = flows
    return sum(flow > threshold for flow in pairs) <= allowed and max(onward, back) <= threshold * allowed * 2


class DynamicDegree(ClipMetric):
    """Dynamic degree: the share of clips that move."""

    title: ClassVar[str] = "dynamic degree"
    requires: ClassVar[tuple[Backbone, ...]] = (RAFT_THINGS,)

    def build(self, backbones: Backbones) -> None:
        """Load RAFT."""
        self.network = load_raft(backbones)

    def measure(self, sample: Sample) -> Score:
        """1 or 0, from about 8 frames a second."""
        height, width = sample.frames.shape[1:3]
        if min(height, width) < SMALLEST - 7:  # up to 7 more come from padding
            raise NotApplicable(f"RAFT needs pictures of at least {SMALLEST} pixels a side, got {height}x{width}")
        kept = sample.frames[:: frame_interval(sample.fps)]
        if len(kept) < 2:
            raise ValueError(f"flow needs at least 2 frames at 8 a second, got {len(kept)} of {len(sample.frames)}")
        pictures = pad(kept.movedim(-1, 1).float(), 8).to(self.device)
        with torch.inference_mode():
            flows = [top_flow(self.network(a[None], b[None])[0]) for a, b in pairwise(pictures)]
        found = moves(flows, height=height, width=width, count=len(kept))
        details = {"threshold": flow_threshold(height, width), "pairs": pairs_to_move(len(kept))}
        return Score(float(found), frames=tuple(flows), details=details)
