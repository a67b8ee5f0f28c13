"""Whether a person does what the prompt says, by UMT's 400 actions (Li et al. 2023)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from videoaccel.eval.backbones import Backbone
from videoaccel.eval.official import OfficialMetric

LIKELY = 0.85
"""Probability, rounded to four digits, from which on an action counts as seen."""

_BEST = 5


def action_of(name: str) -> str:
    """The action in a file's name.

    >>> action_of("A person is riding a bike-0.mp4")
    'riding a bike'
    """
    tail = Path(name).stem.lower().split("person is ")[-1]
    return re.split(r"[-_]", tail)[0]


def shows_action(logits: Tensor, action: str, classes: Mapping[str, int]) -> bool:
    """Whether the action is among the five likeliest and likely itself.

    Args:
        logits: [400].
        action: By name.
        classes: Where each name is in the logits.
    """
    best = logits.float().sigmoid().topk(_BEST)
    likely = {int(i) for p, i in zip(best.values, best.indices, strict=True) if round(float(p), 4) >= LIKELY}
    return action in classes and classes[action] in likely


class HumanAction(OfficialMetric):
    """Human action: the share of clips that show theirs."""

    title: ClassVar[str] = "human action"
    needs_prompt: ClassVar[bool] = True
    requires: ClassVar[tuple[Backbone, ...]] = (
        Backbone(
            "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
            "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/l16_ptk710_ftk710_ftk400_f16_res224.pth",
        ),
    )
