"""What detectors and captions say of frames, scored as VBench does; four of its dimensions.

A frame's detections are the classes that were found in it, with boxes ``(left, top, right, bottom)`` in pixels.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from videoaccel.eval.backbones import Backbone

GRIT = Backbone(
    "grit_model/grit_b_densecap_objectdet.pth",
    "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/grit_b_densecap_objectdet.pth",
)
COLOURS = (
    "white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "grey",
)  # fmt: skip
IOU_LIMIT = 0.1

Box = tuple[float, float, float, float]


class Caption(NamedTuple):
    """A dense caption of a frame, and the classes that were found in that frame."""

    text: str
    classes: Sequence[str]


def frames_with(objects: str, frames: Sequence[Sequence[str]]) -> int:
    """In how many frames all objects of ``A and B`` are found.

    >>> frames_with("dog and cat", [["dog", "cat"], ["cat"], []])
    1
    """
    wanted = objects.split(" and ")
    return sum(all(name in classes for name in wanted) for classes in frames)


def coloured_object(prompt: str, colour: str) -> str:
    """The object of a prompt such as ``a red car``.

    >>> coloured_object("a red car", "red")
    'car'
    """
    return prompt.replace("a ", "").replace("an ", "").replace(colour, "").strip()


def colour_frames(thing: str, colour: str, frames: Sequence[Sequence[Caption]]) -> tuple[int, int]:
    """In how many frames the object has this colour, and in how many any of `COLOURS`.

    Every caption is taken to be of the first class found in its frame, as the official code does.
    """
    right = total = 0
    for captions in frames:
        texts = [caption.text for caption in captions if caption.classes and caption.classes[0] == thing]
        total += any(known in text for text in texts for known in COLOURS)
        right += any(colour in text for text in texts)
    return right, total


def position_score(relation: str, a: Box, b: Box) -> float:
    """How well two boxes stand beside, or over, each other: 1, less where they overlap, 0 where they do not.

    Left and right are not told apart, nor top and bottom.
    """
    across = abs((b[0] + b[2]) / 2 - (a[0] + a[2]) / 2)
    down = abs((b[1] + b[3]) / 2 - (a[1] + a[3]) / 2)
    beside = "left" in relation or "right" in relation
    if not (across > down if beside else down > across):
        return 0.0
    overlap = _iou(a, b)
    return 1.0 if overlap < IOU_LIMIT else IOU_LIMIT / overlap


def frame_position(relation: str, first: str, second: str, found: Sequence[tuple[str, Box]]) -> float:
    """The best score of any two boxes of either object in a frame; 0 without two."""
    boxes = [box for name, box in found if name in (first, second)]
    return max((position_score(relation, a, b) for a, b in combinations(boxes, 2)), default=0.0)


def scene_frames(scene: str, captions: Sequence[str]) -> int:
    """How many captions hold every word of a scene's name; "bar" is held by "barn", too."""
    return sum(all(word in caption for word in scene.split(" ")) for caption in captions)


def _iou(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
