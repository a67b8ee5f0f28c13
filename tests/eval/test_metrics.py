"""Metrics as states: what they count, name and merge over ranks."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.eval import standin
from tests.eval.samples import blurred, moving, noisy, sample, shuffled
from tests.ranks import RankPools
from videoaccel.eval.backbones import Backbones, MissingBackbone
from videoaccel.eval.fidelity import CEILING
from videoaccel.eval.metric import ClipMetric, NotApplicable, Sample, Score, set_score
from videoaccel.eval.metric_names import metric_class, metric_names
from videoaccel.eval.metrics.psnr import Psnr

FIDELITY = ("psnr", "ssim", "ms_ssim", "lpips", "tlp", "frame_difference", "flicker_ratio")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    folder = tmp_path_factory.mktemp("backbones")
    standin.save("alexnet", folder / "alexnet_model/alexnet-owt-7be5be79.pth")
    return Backbones(folder)


def made(name: str, backbones: Backbones) -> ClipMetric:
    return metric_class(name)(backbones=backbones)


@pytest.mark.parametrize("name", FIDELITY)
def test_equal_clips_are_perfect(name: str, backbones: Backbones) -> None:
    clip = moving(3, 176)
    score = made(name, backbones).measure(sample(clip, clip))
    perfect = {"psnr": math.inf, "frame_difference": math.inf, "lpips": 0.0, "tlp": 0.0}
    assert score.value == pytest.approx(perfect.get(name, 1.0), abs=1e-9)
    assert score.share == (CEILING if math.isinf(score.value) else score.value)
    assert score.details.get("identical", True)


@pytest.mark.parametrize("name", [name for name in FIDELITY if name != "flicker_ratio"])
@pytest.mark.parametrize("spoil", [noisy, blurred])
def test_spoiling_more_is_worse(name: str, spoil: object, backbones: Backbones) -> None:
    metric, clip = made(name, backbones), moving(4, 176)
    badness = [metric.badness(metric.measure(sample(spoil(clip, level), clip)).value) for level in (1, 2, 4)]
    assert badness == sorted(badness) and len(set(badness)) == 3


def test_shuffled_frames_cost_temporal_fidelity(backbones: Backbones) -> None:
    clip = moving(8, 64)
    for name in ("frame_difference", "tlp", "psnr", "lpips"):
        metric = made(name, backbones)
        good, bad = (metric.measure(sample(x, clip)).value for x in (noisy(clip, 1), shuffled(clip)))
        assert metric.badness(bad) > metric.badness(good)
    ratio = made("flicker_ratio", backbones)
    assert ratio.measure(sample(shuffled(clip), clip)).value > 1.2
    assert ratio.measure(sample(blurred(clip, 8), clip)).value < 0.95
    assert ratio.badness(0.5) == ratio.badness(2.0) > ratio.badness(1.1) > ratio.badness(1.0)


def test_sets_count_identical_clips_as_the_ceiling() -> None:
    clip = moving(3, 32)
    metric = Psnr()
    assert math.isnan(float(metric.compute()))
    metric.update(sample(clip, clip))
    assert float(metric.compute()) == CEILING
    metric.update(sample(noisy(clip, 4), clip))
    other = metric.measure(sample(noisy(clip, 4), clip)).value
    assert float(metric.compute()) == (CEILING + other) / 2


def test_set_scores_do_not_depend_on_the_order() -> None:
    scores = [Score(value, weight=weight) for value, weight in ((1e16, 1.0), (1.0, 3.0), (-1e16, 1.0), (0.1, 7.0))]
    assert set_score(scores) == set_score(scores[::-1]) == 3.7 / 12
    assert math.isnan(set_score([]))


def test_small_pictures_have_no_ms_ssim(backbones: Backbones) -> None:
    clip = moving(3, 64)
    with pytest.raises(NotApplicable, match="at least 176 pixels a side, got 64x64"):
        made("ms_ssim", backbones).measure(sample(clip, clip))
    with pytest.raises(NotApplicable, match="at least 11 pixels"):
        made("ssim", backbones).measure(sample(moving(3, 10), moving(3, 10)))
    with pytest.raises(NotApplicable, match="no reference"):
        made("psnr", backbones).measure(Sample("a", clip))
    with pytest.raises(ValueError, match="at least 31x31 pixels, got 30x30"):
        made("lpips", backbones).measure(sample(moving(2, 30), moving(2, 30)))
    with pytest.raises(NotApplicable, match="does not change"):
        made("flicker_ratio", backbones).measure(sample(clip, clip[:1].expand_as(clip)))


@pytest.mark.parametrize("name", FIDELITY)
def test_clips_of_two_shapes_are_refused(name: str, backbones: Backbones) -> None:
    with pytest.raises(ValueError, match="the clip is 3 frames of 176x176, its reference 4 frames"):
        made(name, backbones).measure(sample(moving(3, 176), moving(4, 176)))


def test_a_missing_file_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = tmp_path / "alexnet_model/alexnet-owt-7be5be79.pth"
    with pytest.raises(MissingBackbone, match=r"is missing: mkdir -p .* && wget -O ") as caught:
        metric_class("lpips")(backbones=Backbones(tmp_path))
    assert str(place) in str(caught.value) and caught.value.missing[0][1] == place
    standin.save("alexnet", tmp_path / "torch/hub/checkpoints/alexnet-owt-7be5be79.pth")
    metric_class("lpips")(backbones=Backbones(tmp_path))
    place.parent.mkdir()
    place.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a readable file of weights"):
        metric_class("lpips")(backbones=Backbones(tmp_path))
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, place)
    with pytest.raises(ValueError, match="not AlexNet's weights: 9 of 10"):
        metric_class("lpips")(backbones=Backbones(tmp_path))


def test_metrics_are_found_by_name() -> None:
    assert set(FIDELITY) <= set(metric_names())
    with pytest.raises(ValueError, match="unknown metric 'psrn'; did you mean 'psnr'"):
        metric_class("psrn")
    for name in metric_names():
        found = metric_class(name)
        assert found.title and (found.__doc__ or "").strip()


def shared_out(rank: int, size: int, clips: list[tuple[Tensor, Tensor]]) -> float:
    metric = Psnr()
    for i, (clip, reference) in enumerate(clips):
        if i % size == rank:
            metric.update(Sample(str(i), clip, reference=reference))
    return float(metric.compute())


def on_a_rank(clips: list[tuple[Tensor, Tensor]]) -> float:
    import torch.distributed as dist

    return shared_out(dist.get_rank(), dist.get_world_size(), clips)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_two_ranks_give_the_score_of_one(count: int, ranks: RankPools) -> None:
    clip = moving(2, 24)
    clips = [(noisy(clip, 1 + i), clip) for i in range(count)]
    assert ranks(2).run(on_a_rank, clips) == [shared_out(0, 1, clips)] * 2
