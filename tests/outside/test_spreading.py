"""One clip over several ranks, by diffusers' own context parallelism."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.adapters import video_pipes as videos
from tests.outside import rank_work
from tests.ranks import RankPools
from videoaccel import GenerateSettings, generate
from videoaccel.media.reader import read_video
from videoaccel.outside.calls import worded
from videoaccel.outside.find import Found
from videoaccel.outside.spreading import spread, why_alone

SMALL = {"prompt": "a cat", "size": "32x32", "frames": 5, "steps": 8, "threads": 1, "device": "cpu"}


@pytest.mark.parametrize("method", [{}, {"accel": "sada", "accel_options": {"threshold": 0.9}}, {"speedup": 2}])
def test_a_clip_of_two_ranks_is_that_of_one(
    ranks: RankPools, wan_folder: Path, tmp_path: Path, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {**SMALL, **method, "samples": 2, **({"measure_first": 1} if "speedup" in method else {})}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    generate(GenerateSettings(model=str(wan_folder), output=str(tmp_path / "one.mp4"), **shared))
    asked = json.dumps({**shared, "sp": 2, "output": str(tmp_path / "two.mp4")})
    wrote, silent = ranks(2).run(rank_work.clips, str(wan_folder), str(tmp_path / "two"), asked)
    assert silent == [] and wrote == [str(tmp_path / f"two-{k}.mp4") for k in range(2)]
    for k in range(2):
        one, two = (read_video(tmp_path / f"{name}-{k}.mp4")[0].astype(int) for name in ("one", "two"))
        assert abs(one - two).max() <= 2
        alone, record = (json.loads((tmp_path / f"{name}-{k}.json").read_text()) for name in ("one", "two"))
        assert record["ranks"] == {"data": 1, "guidance": 1, "sequence": 2} and record["settings"]["gpus"] == 2
        computed = record["network"]["evaluations_computed"]
        assert computed == alone["network"]["evaluations_computed"] and (len(computed) < 8 or not method or not k)
    if "speedup" in method:
        assert len(list((tmp_path / "two").rglob("*.safetensors"))) == 1, "the first rank keeps what all have measured"


@pytest.mark.parametrize("name", ["wan_two", "wan_from_video", "flux", "qwen_image"])
def test_pipelines_of_classes_with_a_plan_are_themselves_over_ranks(ranks: RankPools, name: str) -> None:
    assert max(ranks(2).run(rank_work.away, name)) < 1e-5


def test_ranks_that_would_plan_differently_are_stopped(ranks: RankPools) -> None:
    assert (
        ranks(2).run(rank_work.different_errors)
        == ["rank 1 has other measured errors than rank 0; tell all of them the same"] * 2
    ), "none goes on, to wait for those that have left"


def test_what_cannot_be_spread_is_refused_before_anything_is_loaded(dit_folder: Path, wan_folder: Path) -> None:
    with pytest.raises(ValueError, match="the transformer of a DiTPipeline is a DiTTransformer2DModel, and diffusers"):
        generate(GenerateSettings(model=str(dit_folder), prompt="1", gpus=2, device="cpu"))
    with pytest.raises(ValueError, match="`sp=3` does not fit 2 ranks: all of them share each clip"):
        generate(GenerateSettings(model=str(wan_folder), gpus=2, sp=3, **SMALL))
    with pytest.raises(ValueError, match="needs as many processes, and this is a lone one"):
        generate(GenerateSettings(model=str(wan_folder), gpus=2, **SMALL))
    with (
        pytest.raises(ValueError, match=r"a LTXPipeline does not take this call over 2 ranks \(RuntimeError: x\)"),
        worded("LTXPipeline", ranks=2),
    ):
        raise RuntimeError("x")


def test_the_command_line_starts_ranks(cli: Any, wan_folder: Path) -> None:
    asked = ("generate", "a cat", "--model", wan_folder, "--gpus", 2, "--device", "cpu", "--steps", 8)
    assert "# would run on 2 ranks together" in cli(*asked, "--dry-run").out
    wrong = cli(*asked, "--sp", 3)
    assert wrong.code == 2 and "--sp 3 does not fit 2 ranks" in wrong.err and wrong.err.count("\n") == 1


@pytest.mark.parametrize("name", ["ltx", "ltx_2"])
def test_networks_whose_plan_does_not_hold_are_refused_with_this_diffusers_alone(
    ranks: RankPools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, device = getattr(videos, name)().pipe, torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"the transformer of a LTX2?Pipeline is a LTX2?Video\w+, and diffusers 0\.42\.1"
    ):
        spread(pipe, 2, device)
    kind = type(pipe.transformer).__name__
    assert "mask of all heads" in str(
        why_alone(Found("x", name, index={"transformer": ["diffusers", kind]}), type(pipe))
    )
    if diffusers.__version__ == "0.42.1":
        assert ranks(2).run(rank_work.fails, name) == [True, True], "it holds by now: let it"
    monkeypatch.setattr(diffusers, "__version__", "0.43.0")
    assert why_alone(Found("x", name, index={"transformer": ["diffusers", kind]}), type(pipe)) is None
