"""The oracle of the demo world: looks at pixels and says which sentence they show.

It knows no model and has nothing learned: colours are compared in CIE Lab, shapes with templates drawn by the world's
own `signed_distance`, motions with the tracks of the renderer. What cannot be told is ``None`` and counts as wrong.

    >>> from videoaccel.eval.world import render
    >>> scene = Scene.parse("an orange star orbits on a dark blue background")
    >>> reading = read(render(scene, rng=np.random.default_rng(0)))
    >>> reading.background.word, *(answer.word for answer in reading.actors[0])
    ('dark blue', 'orange', 'star', 'orbits')

Shape legend: B clips, T frames, H height and W width in pixels (h the part's), G side of the shapes' common grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from videoaccel.eval.world import BACKGROUNDS, COLOURS, SHAPES, Rgb, Scene, Video, signed_distance

Attribute: TypeAlias = Literal["background", "colour", "shape", "motion", "scene"]
Array: TypeAlias = NDArray[Any]


class Answer(NamedTuple):
    """A word of the vocabulary, or None where none fits, and how clear the case was (0 to 1)."""

    word: str | None
    confidence: float


class ActorReading(NamedTuple):
    """What one actor is and does."""

    colour: Answer
    shape: Answer
    motion: Answer


class Reading(NamedTuple):
    """What a clip shows; of two actors, the one in the upper half comes first."""

    background: Answer
    actors: tuple[ActorReading, ...]


@dataclass(frozen=True)
class Limits:
    """Where the oracle stops believing, each beside what it keeps clear of (rendered clips of 48 pixels and more)."""

    background: float = 35.0  # CIE Lab distance from the palette; the closest two backgrounds are 38 apart
    colour: float = 45.0  # CIE Lab distance from the palette; generated colours are paler, 42 is the closest pair
    votes: float = 0.4  # share of the shape's pixels that agree on its colour; pure noise reaches 0.2
    contrast: float = 55.0  # RGB distance of a shape from the background; 126 (green on dark green)
    tint: float = 80.0  # RGB distance of a pixel from the line through background and shape
    cover: float = 0.25  # of a pixel by the shape; less is taken for noise
    area: float = 0.004  # of the picture, per frame; 0.012 (a pair's actor before it grows)
    presence: float = 0.5  # share of the frames that show the actor
    frames: int = 5  # that show it; with fewer, two hops cannot be told from none
    overlap: float = 0.7  # intersection over union with the best template; 0.84 (a pair at 48, blurred and noisy)
    growth: float = 0.7  # change of log area over the clip; 1.6
    travel: float = 0.03  # extent of the track over the picture's shorter side; 0.09 (a pair's star moving up)
    explained: float = 0.6  # share of the track's variance that the motion explains; 0.97
    roundness: float = 0.2  # of an orbit's ellipse, 1 for a circle; 0.36 (a pair's star)


_LIMITS = Limits()
_ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
_UNSEEN = ActorReading(Answer(None, 0.0), Answer(None, 0.0), Answer(None, 0.0))


def read(video: Video, *, actors: int = 1, limits: Limits = _LIMITS) -> Reading:
    """Say what a uint8 RGB clip [T, H, W, 3] shows; of ``actors=2`` each is looked for in its half.

    Raises:
        ValueError: If ``actors`` is neither 1 nor 2.
    """
    if actors not in (1, 2):
        raise ValueError(f"a clip is read for 1 or 2 actors, not {actors}")
    rim = np.concatenate([video[:, [0, -1]], video[:, :, [0, -1]].swapaxes(1, 2)], axis=2)
    grounds = np.median(rim, axis=(1, 2))  # by frame, so that flicker is not taken for a shape
    distances = np.linalg.norm(_lab(np.median(grounds, axis=0)) - _palette(BACKGROUNDS), axis=-1)
    background = _closest(distances, list(BACKGROUNDS), limits.background)
    middle, side = video.shape[1] // 2, min(video.shape[1:3])
    parts = [video] if actors == 1 else [video[:, :middle], video[:, middle:]]
    return Reading(background, tuple(_read_actor(part, grounds, side, limits) for part in parts))


def _read_actor(video: Video, grounds: Array, side: int, limits: Limits) -> ActorReading:
    """Read one actor in a part [T, h, W, 3] of a clip, with its frames' backgrounds [T, 3] and its shorter side."""
    pixels = (video - grounds[:, None, None]).astype(np.float32)
    strong = np.einsum("thwc,thwc->thw", pixels, pixels) > limits.contrast**2
    if not strong.any():
        return _UNSEEN
    colour, ink = _read_colour(video, strong, limits)
    cover = _cover(pixels, ink - np.median(grounds, axis=0), limits)
    centres, areas = _follow(cover)
    seen = areas > limits.area * side * side
    if seen.mean() < limits.presence:
        return _UNSEEN
    clearest = np.argsort(np.where(seen, -areas, 0), kind="stable")[: min(8, int(seen.sum()))]
    shape = _read_shape(cover[clearest], centres[clearest], areas[clearest], limits)
    time = np.linspace(0, 1, len(video))[seen]
    return ActorReading(colour, shape, _read_motion(time, centres[seen] / side, areas[seen], limits))


def _read_colour(video: Video, strong: NDArray[np.bool_], limits: Limits) -> tuple[Answer, Array]:
    """Let the pixels inside the shape vote on its colour; return the answer and the winners' median RGB [3]."""
    inner = strong.copy()
    for axis in (1, 2):  # an edge pixel is a mixture: it has no vote as long as there are others
        inner &= np.roll(strong, 1, axis) & np.roll(strong, -1, axis)
    voters = video[inner if inner.any() else strong]
    voters = voters[:: max(len(voters) // 2000, 1)]
    distances = np.linalg.norm(_lab(voters)[:, None] - _palette(COLOURS), axis=-1)
    votes = distances.argmin(axis=-1)
    winner = int(np.bincount(votes, minlength=len(COLOURS)).argmax())
    agree = votes == winner
    known = agree.mean() >= limits.votes and np.median(distances[agree, winner]) <= limits.colour
    return Answer(list(COLOURS)[winner] if known else None, float(agree.mean())), np.median(voters[agree], axis=0)


def _cover(pixels: Array, ink: Array, limits: Limits) -> Array:
    """Return how much of each pixel the shape covers [T, h, W], from RGB differences to the background [T, h, W, 3]."""
    ink = ink.astype(np.float32)
    cover = pixels @ (ink / max(ink @ ink, 1))  # above 1 where a frame is brighter than most
    rest = pixels - cover[..., None] * ink
    cover[np.einsum("thwc,thwc->thw", rest, rest) > limits.tint**2] = 0  # something else, not this shape
    cover[cover < limits.cover] = 0
    return np.minimum(cover, 1)


def _follow(cover: Array) -> tuple[Array, Array]:
    """Return the shape's centroid [T, 2] (x, y) and area [T] in every frame of a cover [T, h, W]."""
    x, y = np.arange(cover.shape[2]) + 0.5, np.arange(cover.shape[1]) + 0.5
    window = cover
    for _ in range(3):  # narrows to the main blob, so that a stray fleck does not pull the centroid
        areas = window.sum(axis=(1, 2), dtype=np.float64)
        total = np.maximum(areas, 1e-6)
        centres = np.stack([window.sum(axis=1) @ x / total, window.sum(axis=2) @ y / total], axis=1)
        reach = 2 * np.sqrt(areas / np.pi)[:, None] + 2
        near_x = np.abs(x - centres[:, :1]) < reach
        near_y = np.abs(y - centres[:, 1:]) < reach
        window = cover * (near_y[:, :, None] & near_x[:, None, :])
    return centres, areas


def _read_shape(cover: Array, centres: Array, areas: Array, limits: Limits) -> Answer:
    """Compare the mean of the frames [T, h, W], each moved and scaled to one place and area, with the templates."""
    grid = np.linspace(-1.9, 1.9, 48, dtype=np.float32)
    radii = np.sqrt(areas / np.pi)
    x = centres[:, :1] + radii[:, None] * grid
    y = centres[:, 1:] + radii[:, None] * grid
    mean = _sample(cover, x, y).mean(axis=0)
    pixel = np.float32(1 / radii.mean())
    overlaps = []
    for shape in SHAPES:
        distance = signed_distance(shape, grid[None, :], grid[:, None], np.float32(1))
        template = np.clip(0.5 - distance / (1.5 * pixel), 0, 1)
        overlaps.append(np.minimum(mean, template).sum() / np.maximum(mean, template).sum())
    return _closest(1 - np.array(overlaps), list(SHAPES), 1 - limits.overlap)


def _sample(images: Array, x: Array, y: Array) -> Array:
    """Read images [T, h, W] bilinearly at every pair of x [T, G] and y [T, G]: [T, G, G]; outside is empty."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    x = np.clip(x + 0.5, 0, padded.shape[2] - 1.001)
    y = np.clip(y + 0.5, 0, padded.shape[1] - 1.001)
    left, top = x.astype(int)[:, None, :], y.astype(int)[:, :, None]
    right, below = (x % 1)[:, None, :], (y % 1)[:, :, None]
    frame = np.arange(len(images))[:, None, None]
    upper = padded[frame, top, left] * (1 - right) + padded[frame, top, left + 1] * right
    lower = padded[frame, top + 1, left] * (1 - right) + padded[frame, top + 1, left + 1] * right
    return upper * (1 - below) + lower * below


def _read_motion(time: Array, track: Array, areas: Array, limits: Limits) -> Answer:
    """Name a motion from times [N] (0 to 1), a track [N, 2] (of the picture's shorter side) and areas [N]."""
    if len(time) < limits.frames:
        return Answer(None, 0.0)
    growth, shares = _fit(np.log(areas)[:, None], time[:, None])
    if abs(growth[0, 0]) > limits.growth:
        found = {"grows" if growth[0, 0] > 0 else "shrinks": float(shares[0])}
    elif np.ptp(track, axis=0).max() < limits.travel:
        return Answer(None, 0.0)
    else:
        found = _explain(time, track, limits)
    best = max(found, key=lambda motion: found[motion])
    return Answer(best if found[best] >= limits.explained else None, found[best])


def _explain(time: Array, track: Array, limits: Limits) -> dict[str, float]:
    """Return for each motion of unchanged size the share of a track's variance that it explains."""
    slope, line = _fit(track, time[:, None])
    hop, hops = _fit(track, np.abs(np.sin(2 * np.pi * time))[:, None])
    turn, circle = _fit(track, np.stack([np.cos(2 * np.pi * time), np.sin(2 * np.pi * time)], axis=1))
    long, short = np.linalg.svd(turn, compute_uv=False)  # the axes of the ellipse; a flat one is a swing, no orbit
    return {
        "moves right" if slope[0, 0] > 0 else "moves left": float(line[0]),
        "moves down" if slope[0, 1] > 0 else "moves up": float(line[1]),
        "bounces": float(hops[1]) if hop[0, 1] < 0 else 0.0,
        "orbits": float(circle.sum()) if short > limits.roundness * long else 0.0,
    }


def _fit(values: Array, terms: Array) -> tuple[Array, Array]:
    """Fit values [N, D] by a constant and terms [N, K], by least squares.

    Return the terms' coefficients [K, D] and, by column [D], the share they explain of the variance of all columns.
    """
    values, terms = values - values.mean(axis=0), terms - terms.mean(axis=0)
    coefficients = np.linalg.lstsq(terms, values, rcond=None)[0]
    explained = np.square(terms @ coefficients).sum(axis=0)
    return coefficients, explained / max(np.square(values).sum(), 1e-12)


def _closest(distances: Array, words: Sequence[str], limit: float) -> Answer:
    """Return the word at the smallest of the distances, or None beyond the limit; clear where the next is far."""
    first, second = np.sort(distances)[:2]
    confidence = float(1 - first / max(second, 1e-6))
    return Answer(words[int(distances.argmin())] if first <= limit else None, confidence)


def _palette(colours: Mapping[str, Rgb]) -> Array:
    return _lab(np.array(list(colours.values())))


def _lab(rgb: Array) -> Array:
    """Convert sRGB (0 to 255) [..., 3] to CIE 1976 L*a*b* under D65, where distances are about as seen."""
    unit = np.asarray(rgb, np.float64) / 255
    linear = np.where(unit > 0.04045, ((unit + 0.055) / 1.055) ** 2.4, unit / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def agreement(reading: Reading, scene: Scene) -> dict[Attribute, tuple[int, int]]:
    """Count by attribute what a reading has right and how much there was; ``scene`` is 1 where nothing is wrong."""
    pairs = list(zip(reading.actors, scene.actors, strict=True))
    counts: dict[Attribute, tuple[int, int]] = {
        "background": (int(reading.background.word == scene.background), 1),
        "colour": (sum(seen.colour.word == actor.colour for seen, actor in pairs), len(pairs)),
        "shape": (sum(seen.shape.word == actor.shape for seen, actor in pairs), len(pairs)),
        "motion": (sum(seen.motion.word == actor.motion for seen, actor in pairs), len(pairs)),
    }
    counts["scene"] = (int(all(right == total for right, total in counts.values())), 1)
    return counts


class WorldAccuracy(Metric):
    """Share of the clips' actors (or backgrounds, or whole scenes) that show what their sentences say.

    All attributes' counts are kept whichever is asked for, so that a `MetricCollection` of several reads a clip once.

    Args:
        attribute: ``background``, ``colour``, ``shape``, ``motion``, or ``scene`` for all of them at once.
        limits: Where the oracle stops believing.
        kwargs: Those of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    right: torch.Tensor
    total: torch.Tensor

    def __init__(self, attribute: Attribute, *, limits: Limits = _LIMITS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if attribute not in _ATTRIBUTES:
            raise ValueError(f"unknown attribute '{attribute}'; known: {', '.join(_ATTRIBUTES)}")
        self.attribute, self.limits = attribute, limits
        for state in ("right", "total"):
            self.add_state(state, torch.zeros(len(_ATTRIBUTES), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, videos: torch.Tensor, sentences: Sequence[str]) -> None:
        """Count what uint8 RGB clips [B, T, H, W, 3] have right of their B sentences.

        Raises:
            ValueError: If the clips are of another form, their number differs, or a sentence is not of the world.
        """
        if videos.dtype != torch.uint8 or videos.ndim != 5 or videos.shape[-1] != 3:
            raise ValueError(f"clips must be uint8 [B, T, H, W, 3], not {videos.dtype} {list(videos.shape)}")
        if len(videos) != len(sentences):
            raise ValueError(f"{len(videos)} clips but {len(sentences)} sentences")
        for video, sentence in zip(videos.cpu().numpy(), sentences, strict=True):
            scene = Scene.parse(sentence)
            counts = agreement(read(video, actors=len(scene.actors), limits=self.limits), scene)
            right, total = torch.tensor([counts[name] for name in _ATTRIBUTES], device=self.right.device).T
            self.right, self.total = self.right + right, self.total + total

    def compute(self) -> torch.Tensor:
        """Return the share that is right, 0 to 1; not a number before the first clip."""
        index = _ATTRIBUTES.index(self.attribute)
        return self.right[index] / self.total[index]
