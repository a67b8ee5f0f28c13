"""Calibration by several ranks: samples are dealt out, and the prior is that of one rank."""

from pathlib import Path
from typing import Any

import torch

from tests.outside.folders import save_wan
from tests.ranks import RankPools
from videoaccel import CalibrateSettings, calibrate
from videoaccel.planning.prior import Prior


def measured(model: str, output: str, values: dict[str, Any]) -> Prior:
    """Importable by the ranks."""
    given = {"samples": 3, "replay_samples": 1, "steps": 4, "frames": 5, "methods": ("magcache", "soda"), **values}
    return calibrate(CalibrateSettings(model=model, output=output, **given))


def test_ranks_deal_out_the_samples(ranks: RankPools, pipeline_folder: Path, tmp_path: Path) -> None:
    one = measured(str(pipeline_folder), str(tmp_path / "one.safetensors"), {})
    several = tmp_path / "several.safetensors"
    for found in ranks(2).run(measured, str(pipeline_folder), str(several), {}):
        assert found.tables.keys() == one.tables.keys() and found.samples == one.samples
        for name, table in one.tables.items():
            torch.testing.assert_close(found.tables[name], table, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert sorted(map(str, Prior.load(several).info["samples"])) == sorted(map(str, one.info["samples"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "several.safetensors"]
    longer = ranks(2).run(measured, str(pipeline_folder), str(several), {"samples": 4})[0]
    assert set(longer.samples.values()) == {4, 1}, "a finished one is extended; influences were measured once"


def measured_outside(model: str, output: str, curve: int) -> Prior:
    """Importable by the ranks."""
    settings = CalibrateSettings(model=model, output=output, steps=8, size="32x32", frames=5, samples=3, device="cpu")
    return calibrate(settings, curve=curve)


def test_ranks_deal_out_the_calls_of_a_pipeline_that_is_not_ours(ranks: RankPools, tmp_path: Path) -> None:
    folder = str(save_wan(tmp_path / "wan"))
    one = measured_outside(folder, str(tmp_path / "one.safetensors"), 2)
    assert set(one.samples.values()) == {3} and int(one.tables["soda.psnr"].isfinite().sum()) > 3
    several = tmp_path / "several.safetensors"
    for found in ranks(2).run(measured_outside, folder, str(several), 2):
        assert found.tables.keys() == one.tables.keys() and found.samples == one.samples and found.path == several
        for name, table in one.tables.items():
            torch.testing.assert_close(found.tables[name], table, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert Prior.load(several).setting == one.setting
    assert "soda.psnr" not in ranks(2).run(measured_outside, folder, str(several), 0)[1].tables
