"""How much frames keep of what a network sees in them; two of VBench's dimensions.

Shape legend: T frames, C features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from videoaccel.eval.metric import Score


def consistency(features: Tensor) -> Score:
    """The mean over frames, but the first, of their likeness to the one before and to the first.

    Args:
        features: [T, C], as the network gives them.

    Returns:
        The clip's value; in a set every frame counts the same, so longer clips count more.

    Raises:
        ValueError: There is a single frame.
    """
    if len(features) < 2:
        raise ValueError(f"changes between frames need at least 2 frames, got {len(features)}")
    unit = F.normalize(features.float(), dim=-1, p=2)
    before = F.cosine_similarity(unit[:-1], unit[1:]).clamp(min=0)
    first = F.cosine_similarity(unit[:1], unit[1:]).clamp(min=0)
    values = ((before + first) / 2).double().tolist()
    return Score(sum(values) / len(values), weight=len(values), frames=tuple(values))


def details_of(entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What of an official result's entry ours keeps."""
    return {name: entry[name] for name in names if name in entry}
