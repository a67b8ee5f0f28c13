"""Comparisons on pipelines of diffusers: the same room, another bench."""

import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.adapters.tiny import made
from tests.cli.commands import Cli, in_folder
from tests.outside import folders
from videoaccel import accelerate, calibrate, compare
from videoaccel.adapters.loop_clock import LoopClock
from videoaccel.adapters.swap import listeners_of
from videoaccel.comparison import outside as bench
from videoaccel.comparison.log import ROWS

CALL = {"height": 16, "width": 16, "num_frames": 1, "num_inference_steps": 8, "max_sequence_length": 16}
VALUES = {"fora": {"period": [2]}, "soda": {"anchors": [4]}, "pab": {"spatial": [2]}}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pipe() -> Any:
    made_of = made(diffusers.WanPipeline, **folders.wan_parts())
    made_of.set_progress_bar_config(disable=True)
    return made_of


def run(pipe: Any, out: Path, *methods: str, **options: Any) -> Any:
    given = {"controls": False, "picture": False, "timed_clips": 1, "repeats": 1, **CALL, **options}
    values = {name: VALUES[name] for name in methods if name in VALUES}
    return compare(pipe, ["a cat"], methods=methods, out=out, **{"values": values, **given})


METHODS = ("off", "fora", "soda", "pab")


@pytest.fixture(scope="module")
def compared(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    folder = tmp_path_factory.mktemp("compared")
    prior = calibrate(pipe, calls=[{"prompt": "a dog", **CALL}], out=folder / "wan.safetensors", curve=0)
    return run(pipe, folder / "out", *METHODS, prior=prior, speedups=[1.2]), folder / "out", prior


def test_speed_and_quality_of_methods_on_somebody_elses_pipeline(pipe: Any, compared: tuple[Any, Path, Any]) -> None:
    found, out, _ = compared
    rows = {row.method: row for row in found.results}
    assert rows["off"].psnr == float("inf") and rows["off"].speedup_flops == 1 and rows["off"].error is None
    for method, calls in (("fora", 5), ("soda", 4)):
        assert rows[method].speedup_flops == pytest.approx(8 / calls) and 20 < rows[method].psnr < 100
        assert rows[method].latency_s > 0 and rows[method].speedup_latency > 0 and rows[method].cache_bytes > 0
    assert "pab has to look into the network" in rows["pab"].error
    assert found.about["title"].startswith("model: 8 evaluations, height 16, width 16, num_frames 1, guidance_scale 5")
    assert not listeners_of(pipe) and not listeners_of(pipe.scheduler) and not listeners_of(pipe.transformer)
    lines = [json.loads(line) for line in (out / ROWS).read_text().splitlines()]
    grid = next(line["grid"] for line in lines if line.get("kind") == "quality" and line["method"] == "fora")
    assert grid == {"sites": ["networks"], "steps": list("cccfcfcf")}
    assert (out / "worst" / "fora-period-2.jpg").is_file()


def test_it_goes_on_and_says_when_the_call_is_another(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: tuple[Any, Path, Any]
) -> None:
    first, out, prior = compared
    makes = bench.OutsideBench.make
    again: list[str] = []

    def counted(self: Any, clip: Any, setting: Any) -> Any:
        again.append(str(setting))
        return makes(self, clip, setting)

    monkeypatch.setattr(bench.OutsideBench, "make", counted)
    assert run(pipe, out, *METHODS, prior=prior).results == first.results and not again
    with pytest.raises(ValueError, match=r"holds a comparison of another kind \(call "):
        run(pipe, out, "fora", guidance_scale=3.0)
    with pytest.raises(ValueError, match="takes no argument 'num_inference_step'; did you mean num_inference_steps"):
        run(pipe, tmp_path / "other", "fora", num_inference_step=8)
    with pytest.raises(ValueError, match="generator is no option of a comparison"):
        run(pipe, tmp_path / "other", "fora", generator=1)
    with accelerate(pipe, "fora"), pytest.raises(ValueError, match=r"the WanPipeline is accelerated; remove\(\) that"):
        run(pipe, tmp_path / "other", "fora")


def test_a_plain_loop_is_timed_without_touching_networks(pipe: Any) -> None:
    with LoopClock(pipe, torch.device("cpu")) as clock, torch.no_grad():
        assert not listeners_of(pipe.transformer)
        assert clock.seconds is None
        pipe("a cat", output_type="latent", **CALL)
    assert clock.seconds is not None and clock.seconds > 0 and [x.ndim for x in clock.latents] == [5]


def test_sound_has_a_psnr_alone(tmp_path: Path) -> None:
    pipe = diffusers.StableAudioPipeline.from_pretrained(folders.save_stable_audio(tmp_path / "sound"))
    pipe.set_progress_bar_config(disable=True)
    options = {"methods": ["fora"], "values": {"fora": {"period": [2]}}, "controls": False, "picture": False}
    call = {"num_inference_steps": 8, "audio_end_in_s": 0.4}
    found = compare(pipe, ["rain"], out=tmp_path / "out", repeats=0, **options, **call)
    exact, fora = found.results
    assert exact.psnr == float("inf") and 0 < fora.psnr < 100 and fora.ssim is None and fora.error is None
    assert not (tmp_path / "out" / "worst").exists()
    again = compare(pipe, ["rain"], out=tmp_path / "out", repeats=1, keep_clips=True, **options, **call)
    assert again.results[1].psnr == fora.psnr, "rows without SSIM are gone on with"
    with wave.open(str(tmp_path / "out" / "clips" / "fora-period-2" / "rain-0.wav")) as file:
        assert file.getframerate() == pipe.vae.config.sampling_rate


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], pipe: Any
) -> None:
    cli: Cli = in_folder(tmp_path, monkeypatch, capfd)
    pipe.save_pretrained("wan")
    Path("p.txt").write_text("a cat\n")
    asked = ("compare", "--model", "wan", "--prompts", "p.txt", "--size", "32x32", "--frames", 1, "--steps", 8)
    done = cli(*asked, "-o", "run", "--accel", "off", "--repeats", 0, "--no-controls", "--no-picture", "-q",
               "--arg", "max_sequence_length=16")  # fmt: skip
    assert done.code == 0 and done.err == "", done.err
    data = json.loads(Path("run/results.json").read_text())
    assert [row["method"] for row in data["rows"]] == ["exact", "off"]
    assert data["holds"]["arguments"]["max_sequence_length"] == 16 and data["title"].startswith("wan: 8 evaluations")
    wrong = cli(*asked, "-o", "other", "--accel", "off", "--arg", "x=1")
    assert wrong.code == 2 and "takes no argument 'x'" in wrong.err
