"""VBench's rules, on given network outputs, against its own functions."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.eval import standin
from videoaccel.eval import detections, sampling
from videoaccel.eval.consistency import consistency
from videoaccel.eval.likeness import cosines
from videoaccel.eval.metric import Score, set_score
from videoaccel.eval.metrics import aesthetic_quality, dynamic_degree, human_action, imaging_quality, motion_smoothness
from videoaccel.eval.metrics.scene import SceneMetric
from videoaccel.eval.metrics.temporal_flickering import pair_errors, steadiness
from videoaccel.eval.vbench import QUALITY, SEMANTIC, normalised, parse_name, totals

pytestmark = pytest.mark.golden
CLOSE = 1e-6


def given(name: str) -> torch.Tensor:
    found = standin.arrays("formula_inputs")
    if name not in found:
        pytest.skip(f"the golden values hold no {name}")
    return torch.from_numpy(found[name])


@pytest.mark.parametrize("name", ["subject_consistency", "background_consistency"])
def test_consistency(name: str) -> None:
    golden = standin.metrics("formula", name)
    scores = [consistency(given(features)) for features in golden["features"]]
    assert [score.value for score in scores] == pytest.approx(golden["per_video"], rel=CLOSE)
    assert set_score(scores) == pytest.approx(golden["score_single_process"], rel=CLOSE)


def test_temporal_flickering() -> None:
    golden = standin.metrics("formula", "temporal_flickering")
    errors = pair_errors(given(golden["frames"]))
    assert errors == pytest.approx(golden["mae_per_pair"], rel=CLOSE)
    assert steadiness(errors) == pytest.approx(golden["score"], rel=CLOSE)


def test_temporal_flickering_of_the_clips() -> None:
    for name, golden in standin.metrics("temporal_flickering_official").items():
        errors = pair_errors(standin.clip(name)[0])
        assert errors == pytest.approx(golden["mae_per_pair"], rel=CLOSE, abs=CLOSE)
        assert steadiness(errors) == pytest.approx(golden["score"], rel=CLOSE)


def test_motion_smoothness() -> None:
    golden = standin.metrics("formula", "motion_smoothness")
    for kind in ("odd", "even"):
        frames, foretold = (given(f"motion_smoothness/{what}_{kind}") for what in ("original", "interpolated"))
        assert motion_smoothness.smoothness(frames, foretold) == pytest.approx(golden[kind]["score"], rel=CLOSE)
    cut = golden["tensor2img_truncates"]
    assert motion_smoothness.to_bytes(torch.tensor(cut["in"])).tolist() == cut["out"]


@pytest.mark.parametrize(("dimension", "multiple"), [("dynamic_degree", 8), ("motion_smoothness", 16)])
def test_padding(dimension: str, multiple: int) -> None:
    golden = standin.metrics("formula", dimension)
    (margins,) = (value for key, value in golden.items() if "_pad_" in key)
    for size, expected in margins.items():
        assert list(sampling.pad_margins(*sized(size), multiple)) == expected


def test_dynamic_degree() -> None:
    golden = standin.metrics("formula", "dynamic_degree")
    flows = given(golden["flows"])
    assert [dynamic_degree.top_flow(f) for f in flows] == pytest.approx(golden["top5pct_mean"], rel=CLOSE)
    for case in golden["decision_cases"]:
        height, width, count = case["height"], case["width"], case["num_frames_after_sampling"]
        assert dynamic_degree.flow_threshold(height, width) == case["threshold"]
        assert dynamic_degree.pairs_to_move(count) == case["needed"]
        assert dynamic_degree.moves(case["scores"], height=height, width=width, count=count) == case["moves"]
    for fps, interval in golden["sampling_interval"].items():
        assert sampling.frame_interval(float(fps)) == interval


def test_static_filter() -> None:
    golden = standin.metrics("formula", "static_filter")
    flows = given(standin.metrics("formula", "dynamic_degree", "flows"))
    top = [dynamic_degree.top_flow(f, share=0.02) for f in flows]
    assert top == pytest.approx(golden["top2pct_mean_of_flows"], rel=CLOSE)
    for case in golden["cases"]:
        size = {"height": case["height"], "width": case["width"], "count": case["num_frames"]}
        assert dynamic_degree.is_static(case["scores"], **size) == case["static"]


def test_aesthetic_quality() -> None:
    golden = standin.metrics("formula", "aesthetic_quality")
    values = aesthetic_quality.aesthetics(
        given(golden["features"]), given(golden["weight"])[None], torch.tensor([golden["bias"]])
    )
    assert sum(values) / len(values) == pytest.approx(golden["score"], rel=CLOSE)


def test_imaging_quality() -> None:
    golden = standin.metrics("formula", "imaging_quality")
    scores = [imaging_quality.imaging(values) for values in golden["per_frame"]]
    assert [score.value for score in scores] == pytest.approx(golden["per_video"], rel=CLOSE)
    assert set_score(scores) == pytest.approx(golden["score"], rel=CLOSE)
    for mode, sizes in golden["resize"].items():
        for size, expected in sizes.items():
            assert list(imaging_quality.imaging_size(*sized(size), mode)) == expected


@pytest.mark.parametrize("name", ["object_class", "multiple_objects"])
def test_objects(name: str) -> None:
    golden = standin.metrics("formula", name)
    frames = golden["detected_classes_per_frame"]
    assert detections.frames_with(golden["object"], frames) / len(frames) == golden["score"]


def test_color() -> None:
    golden = standin.metrics("formula", "color")
    frames = [[detections.Caption(text, classes) for text, classes in frame] for frame in golden["frames"]]
    thing = detections.coloured_object(golden["prompt"], golden["color"])
    right, total = detections.colour_frames(thing, golden["color"], frames)
    assert right / total == pytest.approx(golden["score"], rel=CLOSE)


def test_spatial_relationship() -> None:
    golden = standin.metrics("formula", "spatial_relationship")
    for case in golden["position_score"]:
        found = detections.position_score(case["relation"], case["box_a"], case["box_b"])
        assert found == pytest.approx(case["score"], rel=CLOSE)
    scores = [
        detections.frame_position("on the left of", "bicycle", "car", [(name, box) for name, box in frame])
        for frame in golden["frames"]
    ]
    assert scores == golden["frame_scores"]
    assert sum(scores) / len(scores) == golden["score"]


def test_scene() -> None:
    golden = standin.metrics("formula", "scene")
    for scene, count in golden["counts"].items():
        assert detections.scene_frames(scene, golden["captions"]) == count
    score = SceneMetric.read({"success_frame_count": 2, "frame_count": 5})
    assert (score.value, score.weight) == (0.4, 5)


def test_human_action() -> None:
    golden = standin.metrics("formula", "human_action")
    names = [human_action.action_of(file) for file in golden["files"]]
    assert names == list(golden["class_index"])
    shown = [
        human_action.shows_action(logits, name, golden["class_index"])
        for logits, name in zip(given(golden["logits"]), names, strict=True)
    ]
    assert shown == golden["correct"]
    assert set_score([Score(float(value)) for value in shown]) == golden["score"]


def test_text_and_video() -> None:
    golden = standin.metrics("formula", "text_video_cosine")
    found = cosines(given(golden["video"]), given(golden["text"]))
    assert found == pytest.approx(golden["scores"], rel=CLOSE)


def test_frames_of_a_clip() -> None:
    for name, expected in standin.metrics("formula", "get_frame_indices_middle").items():
        count, total = (int(part) for part in name.split("_of_"))
        assert sampling.middle_indices(count, total) == expected


def test_prompts_of_files() -> None:
    for name, prompt in standin.metrics("formula", "get_prompt_from_filename").items():
        assert parse_name(name).prompt == prompt


def test_total() -> None:
    golden = standin.metrics("formula", "aggregate")
    raw = {name.replace(" ", "_"): value for name, value in golden["raw"].items()}
    found, official = totals(raw), golden["official"]
    assert (found.quality, found.semantic, found.total) == pytest.approx(
        (official["quality"], official["semantic"], official["total"]), rel=1e-12
    )
    for name, value in golden["weighted_normalised"].items():
        dimension = {**QUALITY, **SEMANTIC}[name.replace(" ", "_")]
        assert dimension.weight * normalised(name.replace(" ", "_"), golden["raw"][name]) == pytest.approx(value)


@pytest.mark.parametrize("size", ["480x832", "240x240", "300x201"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("clip_transform_float_video (background, aesthetic)", sampling.clip_pictures),
        ("clip_transform_uint8_video (ViCLIP dims)", sampling.clip_byte_pictures),
        ("clip_transform_Image_PIL (appearance_style)", sampling.clip_pil_pictures),
        ("dino_transform_float_video (subject)", sampling.dino_pictures),
    ],
)
def test_pictures_for_networks(size: str, name: str, make: Any) -> None:
    golden = standin.metrics("formula", "preprocessing", "outputs", size, name)
    (picture,) = make(torch.from_numpy(random_frame(*sized(size)))[None])
    assert list(picture.shape) == golden["shape"]
    assert picture.mean((1, 2)).tolist() == pytest.approx(golden["mean"], abs=2e-6)
    assert picture.std((1, 2)).tolist() == pytest.approx(golden["std"], rel=1e-4)
    for channel, expected in zip(picture, golden["samples_every_37"], strict=True):
        assert channel[::37, ::37].flatten().tolist() == pytest.approx(expected, abs=1e-4)


def random_frame(height: int, width: int) -> np.ndarray:
    """The picture that the golden values describe in words."""
    state = np.random.RandomState(11 * 1000 + 100)
    low = state.randint(0, 256, (1, height // 8 + 1, width // 8 + 1, 3))
    wide = low.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (wide + state.randint(-24, 25, (1, height, width, 3))).clip(0, 255).astype(np.uint8)[0]


def sized(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)
