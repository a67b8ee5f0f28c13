from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from videoaccel.eval.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Actor,
    Floats,
    Rgb,
    Scene,
    Video,
    held_out_scenes,
    is_held_out,
    render,
    sample_scene,
    signed_distance,
)

ACTORS = tuple(Actor(*words) for words in product(COLOURS, SHAPES, MOTIONS))


def draw(sentence: str, *, seed: int = 0, frames: int = 17, side: int = 64) -> Video:
    return render(Scene.parse(sentence), rng=np.random.default_rng(seed), frames=frames, side=side)


def ink(video: Video, background: str) -> Floats:
    """How far each pixel is from the background, [T, H, W]."""
    return np.abs(video.astype(np.float32) - np.array(BACKGROUNDS[background], np.float32)).max(axis=-1)


def centroids(video: Video, background: str) -> tuple[Floats, Floats]:
    """x and y by frame, in fractions of the picture."""
    weight = ink(video, background)
    total = weight.sum(axis=(1, 2))
    height, width = weight.shape[1:]
    x = weight.sum(axis=1) @ (np.arange(width, dtype=np.float32) + 0.5) / total / width
    y = weight.sum(axis=2) @ (np.arange(height, dtype=np.float32) + 0.5) / total / height
    return x, y


def lab(colour: Rgb) -> Floats:
    """CIE Lab under D65, written independently of the oracle's."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(a * b for a, b in zip(row, linear, strict=True)) / sum(row) for row in rows]
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)], np.float32)


def test_every_word_of_every_kind_survives_the_way_through_a_sentence() -> None:
    for background, actor in product(BACKGROUNDS, ACTORS):
        if actor.colour != background:
            scene = Scene((actor,), background)
            assert Scene.parse(scene.sentence()) == scene


def test_pairs_survive_too_and_no_two_scenes_share_a_sentence() -> None:
    rng = np.random.default_rng(0)
    scenes = {sample_scene(rng, held_out=None, pair_share=1.0) for _ in range(500)}
    assert all(Scene.parse(scene.sentence()) == scene for scene in scenes)
    assert len({scene.sentence() for scene in scenes}) == len(scenes)


def test_sentences_read_as_in_the_manual() -> None:
    pair = Scene((Actor("red", "circle", "moves left"), Actor("orange", "star", "bounces")), "black")
    assert pair.sentence() == "a red circle moves left and an orange star bounces on a black background"
    assert Scene.parse("  A red CIRCLE moves left, and an orange star bounces  on a black background. ") == pair


@pytest.mark.parametrize(
    ("sentence", "word", "instead"),
    [
        ("a pink circle grows on a black background", "'pink'", "purple"),
        ("a red blob grows on a black background", "'blob'", "triangle"),
        ("a red circle moves sideways on a black background", "'sideways'", "down, left, right, up"),
        ("a red circle grows on a dark red background", "'red'", "blue, green"),
        ("a red circle grows on a black background today", "'today'", "(end)"),
        ("a red circle", "'(end)'", "bounces"),
        ("", "'(end)'", "a, an"),
        ("a red star grows and a blue star grows and a cyan star grows on a black background", "'and'", "on"),
    ],
)
def test_parse_names_the_word_and_those_that_would_work(sentence: str, word: str, instead: str) -> None:
    with pytest.raises(ValueError, match=r"does not fit") as error:
        Scene.parse(sentence)
    message = str(error.value)
    assert message.startswith(word)
    assert instead in message.split("known here:")[1]


def test_impossible_scenes_are_refused() -> None:
    red, white = Actor("red", "star", "grows"), Actor("white", "star", "grows")
    with pytest.raises(ValueError, match="white background"):
        Scene((white,), "white")
    with pytest.raises(ValueError, match="both are red"):
        Scene((red, Actor("red", "circle", "grows")), "black")
    with pytest.raises(ValueError, match="not 3"):
        Scene((red, white, Actor("blue", "star", "grows")), "black")
    with pytest.raises(ValueError, match="known: circle"):
        Actor("red", "blob", "grows")


def test_colours_are_well_apart() -> None:
    pairs = list(combinations(COLOURS.values(), 2)) + list(product(COLOURS.values(), BACKGROUNDS.values()))
    distances = [float(np.linalg.norm(lab(a) - lab(b))) for a, b in pairs if a != b]
    assert len(distances) == len(pairs) - 1  # only white on white
    assert min(distances) > 40


def test_held_out_set_is_fixed() -> None:
    held_out = {actor for actor in ACTORS if is_held_out(actor)}
    assert len(held_out) == 24
    assert Actor("red", "square", "orbits") in held_out
    assert Actor("orange", "star", "moves right") in held_out
    assert Actor("white", "circle", "moves left") in held_out
    assert Actor("red", "circle", "moves left") not in held_out


def test_held_out_set_leaves_every_word_and_pair_in_training() -> None:
    held_out = [(actor.colour, actor.shape, actor.motion) for actor in ACTORS if is_held_out(actor)]
    for place, share in ((0, 32), (1, 64), (2, 32)):
        counts = Counter(words[place] for words in held_out)
        assert max(counts.values()) <= share / 4
    for one, two in combinations(range(3), 2):
        assert max(Counter((words[one], words[two]) for words in held_out).values()) <= 2


def test_samples_are_repeatable_and_keep_to_their_part() -> None:
    first, again = np.random.default_rng(4), np.random.default_rng(4)
    scenes = [sample_scene(first) for _ in range(600)]
    assert scenes == [sample_scene(again) for _ in range(600)]
    assert not any(is_held_out(actor) for scene in scenes for actor in scene.actors)
    assert 0.18 < np.mean([len(scene.actors) == 2 for scene in scenes]) < 0.32
    for kind, words in (("colour", COLOURS), ("shape", SHAPES), ("motion", MOTIONS)):
        counts = Counter(getattr(actor, kind) for scene in scenes for actor in scene.actors)
        assert min(counts[word] for word in words) > 0.5 * sum(counts.values()) / len(words)
    others = [sample_scene(first, held_out=True) for _ in range(50)]
    assert all(is_held_out(actor) for scene in others for actor in scene.actors)


def test_held_out_scenes_are_a_fixed_list_without_repeats() -> None:
    scenes = held_out_scenes(60, seed=1)
    assert scenes == held_out_scenes(60, seed=1)
    assert scenes[:10] == held_out_scenes(10, seed=1)
    assert scenes != held_out_scenes(60, seed=2)
    assert len(set(scenes)) == 60
    assert len({scene.actors for scene in scenes[:24]}) == 24
    assert {scene.background for scene in scenes[:24]} == set(BACKGROUNDS)
    assert all(len(scene.actors) == 1 and is_held_out(scene.actors[0]) for scene in scenes)


def test_render_is_a_function_of_its_seed() -> None:
    sentence = "a red star orbits and a cyan square grows on a dark green background"
    assert np.array_equal(draw(sentence, seed=3), draw(sentence, seed=3))
    assert not np.array_equal(draw(sentence, seed=3), draw(sentence, seed=4))


def test_any_size_and_length_can_be_rendered() -> None:
    rng = np.random.default_rng(1)
    for _ in range(80):
        frames, height, width = (int(size) for size in rng.integers(1, (34, 100, 100)))
        scene = sample_scene(rng, held_out=None, pair_share=0.5)
        video = render(scene, rng=rng, frames=frames, height=height, width=width)
        assert video.shape == (frames, height, width, 3)
        assert video.dtype == np.uint8
    with pytest.raises(ValueError, match="0, 64 and 64"):
        draw("a red star orbits on a black background", frames=0)


def test_shapes_stay_whole_inside_and_have_their_colour() -> None:
    rng = np.random.default_rng(2)
    for actor in ACTORS:
        background = "black" if is_held_out(actor) else "dark green"
        video = render(Scene((actor,), background), rng=rng)
        seen = ink(video, background) > 0
        assert not (seen[:, [0, -1]].any() or seen[:, :, [0, -1]].any()), actor
        assert (video == COLOURS[actor.colour]).all(axis=-1).any(axis=(1, 2)).all(), actor


@pytest.mark.parametrize("side", [48, 64, 97])
def test_two_actors_never_leave_their_halves(side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(120):
        scene = sample_scene(rng, held_out=None, pair_share=1.0)
        seen = ink(render(scene, rng=rng, side=side, frames=9), scene.background) > 0.02 * 255
        middle = side // 2
        assert not seen[:, middle - 1 : middle + side % 2 + 1].any(), scene.sentence()
        assert seen[:, :middle].any(axis=(1, 2)).all()
        assert seen[:, middle:].any(axis=(1, 2)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_size_says_nothing_about_shape(shape: str) -> None:
    grid = np.linspace(-2, 2, 801, dtype=np.float32)
    inside = signed_distance(shape, grid[None, :], grid[:, None], np.float32(1)) < 0
    assert np.isclose(inside.mean() * 16, np.pi, rtol=0.01)
    assert abs((inside.sum(axis=0) @ grid) / inside.sum()) < 0.01
    assert abs((inside.sum(axis=1) @ grid) / inside.sum()) < 0.02  # the offsets are from the centroid


@pytest.mark.parametrize(
    ("motion", "dx", "dy"),
    [("moves left", -1, 0), ("moves right", 1, 0), ("moves up", 0, -1), ("moves down", 0, 1)],
)
def test_moves_go_their_way_at_constant_speed(motion: str, dx: int, dy: int) -> None:
    x, y = centroids(draw(f"a red circle {motion} on a white background"), "white")
    for steps, way in ((np.diff(x), dx), (np.diff(y), dy)):
        assert np.allclose(steps, way * 0.48 / 16, atol=0.004)


def test_bounces_hop_twice_in_place() -> None:
    x, y = centroids(draw("a blue square bounces on a black background"), "black")
    assert np.ptp(x) < 0.005
    assert np.allclose(y[[0, 8, 16]], y[0], atol=0.01)
    assert np.allclose(y[[4, 12]], y[0] - 0.36, atol=0.01)


def test_orbits_turn_once_clockwise() -> None:
    for seed in range(5):
        x, y = centroids(draw("a green triangle orbits on a dark blue background", seed=seed), "dark blue")
        angles = np.unwrap(np.arctan2(y - y[:-1].mean(), x - x[:-1].mean()))
        assert np.isclose(angles[-1] - angles[0], 2 * np.pi, atol=0.1)
        assert (np.diff(angles) > 0).all()  # y points down


def test_growing_and_shrinking_mirror_each_other() -> None:
    growing = draw("a cyan star grows on a black background")
    area = ink(growing, "black").sum(axis=(1, 2))
    assert (np.diff(area) > 0).all()
    assert area[-1] > 4 * area[0]
    assert np.array_equal(growing[::-1], draw("a cyan star shrinks on a black background"))


def test_motion_does_not_depend_on_the_number_of_frames() -> None:
    sentence = "a yellow triangle moves up and a purple circle orbits on a dark blue background"
    short, long = draw(sentence, frames=9), draw(sentence, frames=33)
    assert np.abs(short.astype(int) - long[::4]).max() <= 1
    assert np.array_equal(draw(sentence, frames=1), long[:1])
