from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from videoaccel.eval.oracle import Attribute, Limits, Reading, WorldAccuracy, agreement, read
from videoaccel.eval.world import Floats, Scene, Video, render, sample_scene

SENTENCE = "a red circle moves left on a dark blue background"


def draw(sentence: str, *, seed: int = 0, frames: int = 17, side: int = 64) -> Video:
    return render(Scene.parse(sentence), rng=np.random.default_rng(seed), frames=frames, side=side)


def soften(video: Video, *, sigma: float, rng: np.random.Generator) -> Video:
    """A slight blur (binomial, 0.7 pixels) under Gaussian noise, as a generated clip has it."""
    soft = np.pad(video.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    soft = soft[:, :-2] / 4 + soft[:, 1:-1] / 2 + soft[:, 2:] / 4
    soft = soft[:, :, :-2] / 4 + soft[:, :, 1:-1] / 2 + soft[:, :, 2:] / 4
    noise: Floats = rng.normal(0, sigma, soft.shape).astype(np.float32)
    return np.clip(soft + noise, 0, 255).round().astype(np.uint8)


def score(videos: Sequence[Video], scenes: Sequence[Scene]) -> dict[Attribute, float]:
    counts = [agreement(read(v, actors=len(s.actors)), s) for v, s in zip(videos, scenes, strict=True)]
    return {name: sum(c[name][0] for c in counts) / sum(c[name][1] for c in counts) for name in counts[0]}


def words(reading: Reading) -> list[str | None]:
    return [reading.background.word, *(answer.word for actor in reading.actors for answer in actor)]


@pytest.mark.parametrize("actors", [1, 2])
@pytest.mark.parametrize(
    ("side", "frames", "sigma"), [(64, 17, 0), (64, 17, 8), (48, 9, 0), (48, 9, 8), (48, 33, 8), (128, 9, 8)]
)
def test_rendered_clips_are_read_right(actors: int, side: int, frames: int, sigma: float) -> None:
    rng = np.random.default_rng(side + frames + actors)
    scenes = [sample_scene(rng, held_out=None, pair_share=actors - 1.0) for _ in range(50 if side < 128 else 20)]
    videos = [render(scene, rng=rng, side=side, frames=frames) for scene in scenes]
    if sigma:
        videos = [soften(video, sigma=sigma, rng=rng) for video in videos]
    assert min(score(videos, scenes).values()) >= 0.99


def test_other_clips_agree_only_by_chance() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, held_out=None, pair_share=0) for _ in range(300)]
    videos = [render(scene, rng=rng, side=48, frames=9) for scene in scenes]
    shares = score(videos, scenes[1:] + scenes[:1])
    assert 0.05 < shares["colour"] < 0.21  # one of eight
    assert 0.17 < shares["shape"] < 0.33  # one of four
    assert 0.05 < shares["motion"] < 0.21
    assert 0.17 < shares["background"] < 0.34
    assert shares["scene"] < 0.02


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("actors", [1, 2])
def test_blank_clips_show_nothing(shade: int, actors: int) -> None:
    reading = read(np.full((9, 48, 48, 3), shade, np.uint8), actors=actors)
    assert words(reading)[1:] == [None] * 3 * actors
    assert reading.background.word == {0: "black", 128: None, 255: "white"}[shade]


def test_a_noisy_blank_clip_is_still_blank() -> None:
    noise = np.random.default_rng(0).normal(20, 8, (9, 48, 48, 3))
    assert words(read(noise.clip(0, 255).astype(np.uint8))) == ["black", None, None, None]


def test_noise_shows_nothing_and_no_size_crashes() -> None:
    rng = np.random.default_rng(0)
    for size in ((17, 64, 64), (9, 31, 50), (17, 48, 96)):
        assert set(words(read(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))) == {None}
    for size in ((1, 1, 1), (2, 1, 9), (5, 3, 3), (17, 2, 1), (1, 64, 64)):
        read(rng.integers(0, 256, (*size, 3), dtype=np.uint8), actors=2)


def test_what_is_there_only_for_a_while_does_not_count() -> None:
    video = draw(SENTENCE)
    video[6:] = video[0, 0, 0]
    assert words(read(video)) == ["dark blue", None, None, None]


def test_a_still_or_shuffled_clip_has_no_motion() -> None:
    video = draw(SENTENCE)
    shuffled = video[np.random.default_rng(0).permutation(len(video))]
    for clip in (np.repeat(video[:1], 17, axis=0), shuffled, video[:1], video[::6]):
        assert words(read(clip)) == ["dark blue", "red", "circle", None]


def test_a_drift_of_a_pixel_is_no_motion() -> None:
    still = draw(SENTENCE)[:1].repeat(9, axis=0)
    drifting = np.concatenate([still[:4], np.roll(still[4:], -1, axis=2)])
    assert read(drifting).actors[0].motion.word is None


@pytest.mark.parametrize(
    ("motion", "backwards"),
    [("moves left", "moves right"), ("moves up", "moves down"), ("grows", "shrinks"), ("orbits", "orbits")],
)
def test_time_has_a_direction(motion: str, backwards: str) -> None:
    reading = read(draw(f"a red circle {motion} on a white background")[::-1])
    assert reading.actors[0].motion.word == backwards


def test_a_shape_that_is_none_has_no_name() -> None:
    video = np.zeros((9, 64, 64, 3), np.uint8)
    video[:, 10:54, 28:36] = (220, 30, 40)
    assert words(read(video)) == ["black", "red", None, None]
    star = draw("a red star moves left on a black background")
    assert read(star[:, ::-1]).actors[0].shape.word is None  # stands on its head


def test_a_colour_that_is_none_has_no_name() -> None:
    video = draw("a white square moves up on a black background")
    assert read(video).actors[0].colour.word == "white"
    assert read((video * 0.45).astype(np.uint8)).actors[0].colour.word is None


def test_generated_clips_need_not_be_exact() -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng, held_out=None) for _ in range(60)]
    videos = [render(scene, rng=rng) for scene in scenes]
    dim = [(video * 0.7 + 10).astype(np.uint8) for video in videos]
    assert min(score(dim, scenes).values()) >= 0.95
    flicker = [(video * rng.choice([0.75, 1], (len(video), 1, 1, 1))).astype(np.uint8) for video in videos]
    assert min(score(flicker, scenes).values()) >= 0.95


def test_a_stray_fleck_or_a_second_shape_does_not_matter() -> None:
    video = draw("a green square bounces on a black background")
    video[:, 4:8, 4:8] = (40, 185, 60)
    assert words(read(video)) == ["black", "green", "square", "bounces"]
    beside = draw("a green square moves up on a black background")
    beside[:, 4:60, 52:56] = (220, 30, 40)
    assert words(read(beside)) == ["black", "green", "square", "moves up"]


def test_of_two_actors_the_upper_one_comes_first() -> None:
    sentence = "a red circle grows and a white star moves left on a black background"
    assert words(read(draw(sentence), actors=2)) == ["black", "red", "circle", "grows", "white", "star", "moves left"]
    with pytest.raises(ValueError, match="not 3"):
        read(draw(sentence), actors=3)


def test_agreement_counts_actors_and_demands_all_of_a_scene() -> None:
    told = Scene.parse("a red circle grows and a white star moves left on a black background")
    shown = draw("a red square grows and a white star moves right on a black background")
    counts = agreement(read(shown, actors=2), told)
    assert counts == {"background": (1, 1), "colour": (2, 2), "shape": (1, 2), "motion": (1, 2), "scene": (0, 1)}


def test_metric_counts_over_batches_and_ranks() -> None:
    right, wrong = draw(SENTENCE), draw("a red star moves left on a black background")
    clips = torch.from_numpy(np.stack([right, wrong, np.zeros_like(right)]))
    metric, other = WorldAccuracy("shape"), WorldAccuracy("shape")
    metric.update(clips[:1], [SENTENCE])
    metric.update(clips[1:2], [SENTENCE])
    other.update(clips[2:], [SENTENCE])
    assert other.compute() == 0
    metric.merge_state(other)
    assert torch.isclose(metric.compute(), torch.tensor(1 / 3))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    assert metric.higher_is_better


def test_a_collection_reads_every_clip_once() -> None:
    names: tuple[Attribute, ...] = ("background", "colour", "shape", "motion", "scene")
    metrics = MetricCollection({name: WorldAccuracy(name) for name in names})
    clips = torch.from_numpy(np.stack([draw(SENTENCE), draw("a red star moves left on a black background")]))
    metrics.update(clips, [SENTENCE] * 2)
    assert len(metrics.compute_groups) == 1
    metrics.update(clips, [SENTENCE] * 2)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values == {"background": 0.5, "colour": 1.0, "shape": 0.5, "motion": 1.0, "scene": 0.5}


def test_limits_are_obeyed() -> None:
    video = torch.from_numpy(draw(SENTENCE))[None]
    strict = WorldAccuracy("motion", limits=Limits(travel=0.9))
    strict.update(video, [SENTENCE])
    assert strict.compute() == 0


def test_metric_refuses_what_it_cannot_read() -> None:
    metric = WorldAccuracy("colour")
    clips = torch.from_numpy(draw(SENTENCE))[None]
    with pytest.raises(ValueError, match="unknown attribute 'size'"):
        WorldAccuracy("size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32"):
        metric.update(clips.float(), [SENTENCE])
    with pytest.raises(ValueError, match="uint8"):
        metric.update(clips.movedim(-1, 2), [SENTENCE])
    with pytest.raises(ValueError, match="1 clips but 2"):
        metric.update(clips, [SENTENCE] * 2)
    with pytest.raises(ValueError, match="'pink'"):
        metric.update(clips, ["a pink circle"])
