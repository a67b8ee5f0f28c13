"""Fidelity against the scripts of the field (VideoSys, lpips, scikit-image), on the same clips."""

import pytest
import torch
from torch import Tensor

from tests.eval import standin
from videoaccel.eval.fidelity import difference_mae, difference_psnr, flicker, frame_psnr, frame_ssim
from videoaccel.eval.perceptual import Lpips, frame_lpips, pair_lpips, published_heads

pytestmark = pytest.mark.golden
CLIPS = ("couple", "sakura", "walker", "couple.rgb")


@pytest.fixture(scope="module")
def network() -> Lpips:
    return Lpips(standin.tensors("alexnet"), published_heads())


def pair(name: str) -> tuple[Tensor, Tensor]:
    case = standin.metrics("fidelity", name)
    return standin.clip(case["test"])[0], standin.clip(case["reference"])[0]


@pytest.mark.parametrize("name", CLIPS)
def test_psnr_and_ssim(name: str) -> None:
    test, reference = pair(name)
    golden = standin.metrics("fidelity", name, "videosys")
    psnr, ssim = frame_psnr(test, reference), frame_ssim(test, reference)
    assert psnr.tolist() == pytest.approx(golden["psnr_per_frame"], rel=1e-6)
    assert ssim.tolist() == pytest.approx(golden["ssim_per_frame"], rel=1e-6)
    assert float(psnr.mean()) == pytest.approx(golden["psnr"], rel=1e-6)
    assert float(ssim.mean()) == pytest.approx(golden["ssim"], rel=1e-6)


@pytest.mark.parametrize("name", CLIPS)
def test_lpips(name: str, network: Lpips) -> None:
    test, reference = pair(name)
    golden = standin.metrics("fidelity", name)
    plain, spatial = (frame_lpips(network, test, reference, spatial=way) for way in (False, True))
    assert plain.tolist() == pytest.approx(golden["lpips_alex_nonspatial_standin"]["per_frame"], rel=1e-4)
    expected = golden["videosys"]["lpips_alex_spatial_standin_per_frame"]
    assert spatial.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(frame_lpips(network, reference[:2], reference[:2]).abs().max()) == 0


@pytest.mark.parametrize("name", CLIPS)
def test_temporal_fidelity(name: str, network: Lpips) -> None:
    test, reference = pair(name)
    golden = standin.metrics("fidelity", name, "temporal")
    mae = difference_mae(test, reference)
    assert mae.tolist() == pytest.approx(golden["frame_difference_mae"]["per_pair"], rel=1e-6)
    psnr = difference_psnr(test, reference)
    assert psnr.tolist() == pytest.approx(golden["frame_difference_psnr_peak1"]["per_pair"], rel=1e-6)
    ratio = flicker(test) / flicker(reference)
    assert ratio == pytest.approx(golden["flicker_mae_ratio_test_over_ref"], rel=1e-6)
    tlp = 100 * (pair_lpips(network, reference) - pair_lpips(network, test)).abs()
    expected = golden["tlp_alex_nonspatial_standin_x100"]
    assert float(tlp.mean()) == pytest.approx(expected["mean"], rel=1e-3)
    assert torch.allclose(tlp, torch.tensor(expected["per_pair"]), atol=1e-5)
