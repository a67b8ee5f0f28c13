"""The demo world: clips of coloured shapes, each described exactly by one sentence.

The renderer that makes training clips and the oracle that reads generated ones share this vocabulary and palette.
The language is closed and small on purpose: what a clip shows can be decided, not estimated.

    >>> scene = Scene((Actor("red", "circle", "moves left"),), "dark blue")
    >>> scene.sentence()
    'a red circle moves left on a dark blue background'
    >>> render(scene, rng=np.random.default_rng(0)).shape
    (17, 64, 64, 3)

Shape legend: T frames, H height and W width in pixels.
Positions and lengths of the world are fractions: x of W, y of H (downwards), radii of min(H, W).
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rgb: TypeAlias = tuple[int, int, int]
Floats: TypeAlias = NDArray[np.float32]
Video: TypeAlias = NDArray[np.uint8]

# Every pair of colours, and every colour against every background, is at least 40 apart in CIE Lab (a test holds it).
COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (220, 30, 40),
        "green": (40, 185, 60),
        "blue": (45, 115, 255),
        "yellow": (250, 225, 40),
        "purple": (165, 55, 215),
        "orange": (255, 140, 20),
        "cyan": (40, 215, 230),
        "white": (250, 250, 250),
    }
)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
_MOVES: tuple[str, ...] = ("moves left", "moves right", "moves up", "moves down")
MOTIONS: tuple[str, ...] = (*_MOVES, "bounces", "orbits", "grows", "shrinks")
BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {"black": (0, 0, 0), "dark blue": (14, 22, 90), "dark green": (8, 66, 34), "white": (250, 250, 250)}
)

# A radius is that of the circle of equal area, so that size says nothing about shape. A star's valleys lie at 0.42 of
# its tips (0.38 would be the regular pentagram: its thin arms drown in 64 pixels).
_STAR_VALLEY = 0.42
_STAR_TIP = math.sqrt(math.pi / (5 * _STAR_VALLEY * math.sin(math.pi / 5)))
_SQUARE_HALF = math.sqrt(math.pi) / 2
_TRIANGLE_INNER = math.sqrt(math.pi / (3 * math.sqrt(3)))
# A shape's box in radii: half its width, half its height, and how far the centroid lies below the box's middle.
_BOX: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "circle": (1.0, 1.0, 0.0),
        "square": (_SQUARE_HALF, _SQUARE_HALF, 0.0),
        "triangle": (_TRIANGLE_INNER * math.sqrt(3), _TRIANGLE_INNER * 1.5, _TRIANGLE_INNER * 0.5),
        "star": (_STAR_TIP * 0.951, _STAR_TIP * 0.905, _STAR_TIP * 0.095),
    }
)
_MARGIN = 0.03  # kept free at every border, so that shapes are always whole and two actors never touch
_END = "(end)"  # stands after the last word while a sentence is parsed
_PAIR_SCALE = 0.6  # size of each of two actors against that of a lone one


@dataclass(frozen=True)
class Actor:
    """One shape: what it is and what it does. A word outside the vocabulary is a ValueError."""

    colour: str
    shape: str
    motion: str

    def __post_init__(self) -> None:
        _check("colour", self.colour, COLOURS)
        _check("shape", self.shape, SHAPES)
        _check("motion", self.motion, MOTIONS)

    def __str__(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Scene:
    """One or two actors on a plain background; of two, the first has the upper half and the second the lower.

    Two actors of one colour, or one of the background's colour, are a ValueError.
    """

    actors: tuple[Actor, ...]
    background: str

    def __post_init__(self) -> None:
        _check("background", self.background, BACKGROUNDS)
        if len(self.actors) not in (1, 2):
            raise ValueError(f"a scene has 1 or 2 actors, not {len(self.actors)}")
        colours = [actor.colour for actor in self.actors]
        if len(set(colours)) < len(colours):
            raise ValueError(f"two actors need two colours, both are {colours[0]}")
        if self.background in colours:
            raise ValueError(f"a {self.background} shape cannot be seen on a {self.background} background")

    def sentence(self) -> str:
        """Describe this scene and no other."""
        return f"{' and '.join(map(str, self.actors))} on a {self.background} background"

    @classmethod
    def parse(cls, sentence: str) -> "Scene":
        """Read a sentence back; case, spaces, commas and dots do not matter.

        Raises:
            ValueError: If a word does not fit; the message names it and the words that would.
        """
        words = [*sentence.lower().replace(",", " ").replace(".", " ").split(), _END]
        actors: list[Actor] = []
        link, at = "", 0
        while link != "on":
            _, at = _take(words, at, ("a", "an"))
            colour, at = _take(words, at, COLOURS)
            shape, at = _take(words, at, SHAPES)
            motion, at = _take(words, at, MOTIONS)
            actors.append(Actor(colour, shape, motion))
            link, at = _take(words, at, ("and", "on") if len(actors) == 1 else ("on",))
        _, at = _take(words, at, ("a",))
        background, at = _take(words, at, BACKGROUNDS)
        _, at = _take(words, at, ("background",))
        _take(words, at, (_END,))
        return cls(tuple(actors), background)


def is_held_out(actor: Actor) -> bool:
    """Tell whether training never shows this combination (24 of the 256, the same on every machine)."""
    # The salt was chosen for an even spread: no pair of words is held out in more than two of its combinations.
    return zlib.crc32(f"2185 {actor.colour} {actor.shape} {actor.motion}".encode()) % 10 == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool | None = False, pair_share: float = 0.25) -> Scene:
    """Draw a scene, uniformly over actors and over the backgrounds they can be seen on.

    ``held_out=False`` draws from the training combinations, ``True`` from the held-out ones, ``None`` from all;
    ``pair_share`` (0 to 1) is the share of scenes with two actors.
    """
    count = 2 if rng.random() < pair_share else 1
    actors: list[Actor] = []
    while len(actors) < count:
        actor = Actor(*(str(rng.choice(list(words))) for words in (COLOURS, SHAPES, MOTIONS)))
        if held_out in (None, is_held_out(actor)) and actor.colour not in {other.colour for other in actors}:
            actors.append(actor)
    return Scene(tuple(actors), str(rng.choice(_visible_backgrounds(actors))))


def held_out_scenes(count: int, *, seed: int) -> list[Scene]:
    """Return a fixed list of one-actor scenes that training never shows, for evaluation.

    Every held-out actor occurs before one occurs again, each time on another background as long as there are any.
    The same seed gives the same list, and a smaller count its beginning.
    """
    rng = np.random.default_rng(seed)
    actors = [actor for words in product(COLOURS, SHAPES, MOTIONS) if is_held_out(actor := Actor(*words))]
    order, first = rng.permutation(len(actors)), rng.integers(len(BACKGROUNDS), size=len(actors))
    scenes: list[Scene] = []
    for place in range(count):
        turn, index = place // len(actors), order[place % len(actors)]
        backgrounds = _visible_backgrounds([actors[index]])
        scenes.append(Scene((actors[index],), backgrounds[(first[index] + turn) % len(backgrounds)]))
    return scenes


def render(
    scene: Scene,
    *,
    rng: np.random.Generator,
    frames: int = 17,
    side: int = 64,
    height: int | None = None,
    width: int | None = None,
) -> Video:
    """Return a clip [T, H, W, 3] of a scene; size, place and an orbit's starting angle are left to ``rng``.

    The motion takes the whole clip, however many ``frames`` (>= 1) it has; ``height`` and ``width`` override ``side``.
    """
    height, width = side if height is None else height, side if width is None else width
    if min(frames, height, width) < 1:
        raise ValueError(f"frames, height and width must be at least 1, not {frames}, {height} and {width}")
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:] = BACKGROUNDS[scene.background]
    time = np.linspace(0, 1, frames, dtype=np.float32)
    for index, actor in enumerate(scene.actors):
        half = (index * 0.5, index * 0.5 + 0.5) if len(scene.actors) == 2 else (0.0, 1.0)
        centres, radii = _track(actor, time, half, rng)
        scale = np.array([width, height], np.float32)
        _draw(video, actor, centres * scale, radii * scale.min(), BACKGROUNDS[scene.background])
    return video


def signed_distance(shape: str, x: Floats, y: Floats, radius: Floats) -> Floats:
    """Return the distance to a shape's edge, negative inside; beyond a corner it is to the edge's line, so too small.

    ``x`` (rightwards) and ``y`` (downwards) are offsets from the centroid, ``radius`` is that of the circle of equal
    area; the three broadcast and share a unit.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * np.float32(_SQUARE_HALF)
    if shape == "triangle":
        slope = np.abs(x) * np.float32(np.sqrt(0.75)) - y * np.float32(0.5)
        return np.maximum(slope, y) - radius * np.float32(_TRIANGLE_INNER)
    # Mirror the plane into one tenth of the star; there it has a single edge, from the tip (0, tip) to a valley.
    cos, sin = np.float32(np.cos(np.pi / 5)), np.float32(np.sin(np.pi / 5))
    x, y = np.abs(x), -y
    for toward in (1, -1):
        over = 2 * np.maximum(toward * x * cos - y * sin, 0)
        x, y = x - toward * over * cos, y + over * sin
    edge = np.array([_STAR_VALLEY * sin, _STAR_VALLEY * cos - 1], np.float32)
    edge /= np.linalg.norm(edge)
    y = y - radius * np.float32(_STAR_TIP)
    return np.maximum(y * edge[0] - np.abs(x) * edge[1], y)  # the second keeps smoothed tips from growing needles


def _track(actor: Actor, time: Floats, half: tuple[float, float], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return an actor's centroids [T, 2] (x, y) and radii [T] in world units, inside its part of the picture."""
    limits = np.array([0.5, (half[1] - half[0]) / 2])
    size = _PAIR_SCALE if limits[1] < 0.5 else 1.0
    radius, angle = size * rng.uniform(0.17, 0.20), rng.uniform(0, 2 * np.pi)
    jitter = rng.uniform(-0.06, 0.06, 2)
    box, drop = np.array(_BOX[actor.shape][:2]), _BOX[actor.shape][2]
    radii = np.full_like(time, radius)
    if actor.motion in ("grows", "shrinks"):
        stage = time if actor.motion == "grows" else 1 - time
        smallest, largest = size * 0.11, min(radius * 0.27 / 0.185, float(np.min((limits - _MARGIN) / box)))
        radii = np.asarray(smallest + (largest - smallest) * stage, np.float32)
    radius = float(radii.max())
    room = np.maximum(limits - _MARGIN - radius * box, 0)  # how far the centre may stray from the middle, in x and y
    swing = np.minimum({"orbits": 0.22 * size, "bounces": 0.18}.get(actor.motion, 0.24), room)
    path = _path(actor.motion, time, angle) * swing
    free = room - swing * path.any(axis=0)  # not the path's own extent, which depends on the number of frames
    middle = np.array([0.5, sum(half) / 2 + radius * drop])
    return (middle + path + np.clip(jitter, -free, free)).astype(np.float32), radii


def _path(motion: str, time: Floats, angle: float) -> NDArray[np.float64]:
    """Return a motion's path [T, 2] (x, y), within -1..1 on both axes."""
    path = np.zeros((len(time), 2))
    if motion in _MOVES:
        sign = -1 if motion in ("moves left", "moves up") else 1
        path[:, int(motion in ("moves up", "moves down"))] = (2 * time - 1) * sign
    elif motion == "bounces":
        path[:, 1] = 1 - 2 * np.abs(np.sin(2 * np.pi * time))
    elif motion == "orbits":
        turn = angle + 2 * np.pi * time  # y points down, so this is clockwise
        path = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return path


def _draw(video: Video, actor: Actor, centres: Floats, radii: Floats, background: Rgb) -> None:
    """Draw one actor into the clip [T, H, W, 3], with centres [T, 2] and radii [T] in pixels."""
    height, width = video.shape[1:3]
    side = 2 * int(np.ceil(radii.max() * sum(_BOX[actor.shape][1:]) + 2)) + 1
    size = np.array([min(side, width), min(side, height)])
    # The patch is pushed back into the picture where it sticks out, so nothing below needs to clip.
    corners = np.clip(np.round(centres - size / 2), 0, np.array([width, height]) - size).astype(int)
    x = (corners[:, :1] + np.arange(size[0]) + 0.5 - centres[:, :1]).astype(np.float32)[:, None, :]
    y = (corners[:, 1:] + np.arange(size[1]) + 0.5 - centres[:, 1:]).astype(np.float32)[:, :, None]
    distance = signed_distance(actor.shape, x, y, radii[:, None, None])
    cover = np.clip(np.float32(0.5) - distance, 0, 1)
    level = (cover * cover * (3 - 2 * cover) * 255 + 0.5).astype(np.uint8)
    blend = np.linspace(background, COLOURS[actor.colour], 256).round().astype(np.uint8)
    for frame, (left, top), patch in zip(video, corners, level, strict=True):
        window = frame[top : top + size[1], left : left + size[0]]
        np.copyto(window, blend[patch], where=patch[..., None] > 0)


def _check(what: str, word: str, words: Iterable[str]) -> None:
    if word not in words:
        raise ValueError(f"unknown {what} '{word}'; known: {', '.join(words)}")


def _take(words: Sequence[str], at: int, phrases: Iterable[str]) -> tuple[str, int]:
    """Match one of the phrases (none begins another) at a place among words; return it and the place after it."""
    options = [phrase.split() for phrase in phrases]
    for depth, word in enumerate(words[at:]):
        fitting = sorted({option[depth] for option in options})
        options = [option for option in options if option[depth] == word]
        if not options:
            raise ValueError(f"'{word}' does not fit in '{' '.join(words[:-1])}'; known here: {', '.join(fitting)}")
        if len(options[0]) == depth + 1:
            break
    return " ".join(options[0]), at + depth + 1


def _visible_backgrounds(actors: Iterable[Actor]) -> list[str]:
    colours = {actor.colour for actor in actors}
    return [background for background in BACKGROUNDS if background not in colours]
