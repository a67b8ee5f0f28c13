"""The job of calibrating: files that grow, stop, go on and add up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.eval import standin
from tests.workshop import Workshop
from videoaccel import CalibrateSettings, VideoPipeline, calibrate
from videoaccel.calibration.calibrate import builtin_prompts, chosen_methods
from videoaccel.calibration.files import merge_files, part_path
from videoaccel.common.alone import BusyError
from videoaccel.eval.world import Scene, is_held_out
from videoaccel.generation.denoise import Network
from videoaccel.planning.prior import Prior
from videoaccel.planning.shelf import find_prior, shelf
from videoaccel.policies._soda_network import fewest_calls
from videoaccel.settings.calibrate import PROMPTS, parse_bytes

PROMPT = "a red circle"
Measure = Callable[..., Prior]


@pytest.fixture
def measure(pipeline_folder: Path, tmp_path: Path) -> Measure:
    """Calibrates the tiny model for SODA, four steps, into ``a.safetensors`` unless told otherwise."""

    def run(
        output: str = "a.safetensors", *, listener: Any = None, note: Any = lambda text: None, **values: Any
    ) -> Prior:
        given = {"samples": 2, "replay_samples": 2, "steps": 4, "frames": 5, "methods": ("soda",), **values}
        settings = CalibrateSettings(model=str(pipeline_folder), output=str(tmp_path / output), **given)
        return calibrate(settings, listener=listener, note=note)

    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every network call."""
    found: list[int] = []
    original = Network.at

    def at(self: Network, *args: Any) -> Any:
        call = original(self, *args)

        def counted(*given: Any, **options: Any) -> Any:
            found.append(1)
            return call(*given, **options)

        return counted

    monkeypatch.setattr(Network, "at", at)
    return found


def same(one: Prior, other: Prior, **tolerance: float) -> bool:
    assert one.tables.keys() == other.tables.keys() and one.samples == other.samples
    pairs = [(one.tables[name], table) for name, table in other.tables.items()]
    return all(torch.allclose(a, b, equal_nan=True, **tolerance) for a, b in pairs)


def without_curve(prior: Prior) -> Prior:
    tables = {name: table for name, table in prior.tables.items() if name != "soda.psnr"}
    return replace(prior, tables=tables, samples={name: prior.samples[name] for name in tables})


def test_it_measures_what_soda_plans_with(measure: Measure, tmp_path: Path, calls: list[int]) -> None:
    told: list[tuple[str, int, int]] = []
    prior = measure(listener=lambda *event: told.append(event))
    assert prior.path == tmp_path / "a.safetensors" and [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert {"soda.cache", "soda.prune", "soda.velocity", "influence.site", "influence.step"} <= prior.tables.keys()
    assert set(prior.samples.values()) == {2}
    assert not any(table.isnan().any() for name, table in prior.tables.items() if name != "soda.psnr")
    assert prior.setting["steps"] == 4 and prior.setting["size"] == [32, 32] and prior.setting["frames"] == 5
    assert prior.info["samples"] == [[0, PROMPTS[0]], [1, PROMPTS[1]]] == prior.info["replayed"]
    assert len(prior.info["influence_check"]) == 2 * 18 and -1 <= prior.info["influence_correlation"] <= 1
    measured = [event for event in told if event[0] == "measure"]
    total = measured[0][2]
    assert [done for _, done, _ in measured] == list(range(total + 1)), "the bar counts up to its end"
    # Two calls a sample show how large outputs are; then the curve is drawn.
    drawn = max(done for stage, done, _ in told if stage == "curve")
    assert total + drawn <= len(calls) <= total + drawn + 2 * 2 + 2


def test_a_prior_is_found_and_used(measure: Measure, make: Workshop, tmp_path: Path) -> None:
    prior = measure("p.safetensors")
    make(prior=str(prior.path), steps=4, frames=5, accel="soda", speedup=1.2)
    assert make.record()["acceleration"]["method"] == "soda"


def test_a_stopped_run_goes_on_where_it_was(measure: Measure, tmp_path: Path, calls: list[int]) -> None:
    whole = measure("whole.safetensors", samples=3, replay_samples=1)
    needed = len(calls)
    calls.clear()
    stop = 0

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "measure" and done > stop > 0:
            raise KeyboardInterrupt

    measure("first.safetensors", samples=1, replay_samples=1)
    one = len(calls) - (4 + 3 + 2 + 1)  # the curve is drawn at the end, not for each sample
    calls.clear()
    stop = one + 1
    with pytest.raises(KeyboardInterrupt):
        measure(samples=3, replay_samples=1, listener=interrupt)
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a.part.safetensors"]
    assert Prior.load(tmp_path / "a.part.safetensors").info["samples"] == whole.info["samples"][:1]
    calls.clear()
    notes: list[str] = []
    again = measure(samples=3, replay_samples=1, note=notes.append)
    assert notes == ["1 sample of 3 measured before"]
    assert len(calls) == needed - one and same(again, whole, rtol=0, atol=0), "bit for bit as if never stopped"
    assert again.info == whole.info and not part_path(tmp_path / "a.safetensors").exists()


def test_two_at_once_at_one_output(measure: Measure, tmp_path: Path) -> None:
    said: list[str] = []

    def second(stage: str, done: int, total: int) -> None:
        if stage == "measure" and not said:
            with pytest.raises(BusyError) as error:
                measure()
            said.append(str(error.value))

    measure(samples=1, replay_samples=0, listener=second)
    assert said == [
        f"another process is at work on {tmp_path / 'a.safetensors'}; wait until it ends, or choose another place"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_finished_prior_is_extended_and_not_measured_twice(measure: Measure, calls: list[int]) -> None:
    measure(samples=1, replay_samples=0)
    calls.clear()
    again = measure(samples=1, replay_samples=0)
    assert not calls and set(again.samples.values()) == {1} and "influence.site" not in again.tables
    more = measure(samples=2, replay_samples=1)
    assert more.samples["soda.cache"] == 2 and more.samples["influence.step"] == 1
    whole = measure("whole.safetensors", samples=2, replay_samples=1)
    assert same(more, whole, rtol=1e-5)


def test_two_halves_are_one_whole(measure: Measure, tmp_path: Path) -> None:
    whole = measure("whole.safetensors", samples=4, replay_samples=4)
    measure("b.safetensors", samples=2, replay_samples=2)
    measure("c.safetensors", samples=2, replay_samples=2, first=2)
    both = merge_files([tmp_path / "b.safetensors", tmp_path / "c.safetensors"], tmp_path / "d.safetensors")
    for prior in (both, whole):  # a half's curve is that of its own plans
        assert prior.samples["soda.psnr"] == 4
    assert same(without_curve(both), without_curve(whole), rtol=1e-5) and both.info == whole.info
    assert same(Prior.load(tmp_path / "d.safetensors"), both, rtol=0, atol=0)


def test_a_sample_counts_once(measure: Measure, tmp_path: Path) -> None:
    measure("b.safetensors", replay_samples=0)
    measure("c.safetensors", first=1, replay_samples=0)
    with pytest.raises(ValueError, match=r"both hold the sample with seed 1 \('a city street"):
        merge_files([tmp_path / "b.safetensors", tmp_path / "c.safetensors"], tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="two priors or more to merge, got 1"):
        merge_files([tmp_path / "b.safetensors"], tmp_path / "d.safetensors")


def test_memory_is_bounded_by_passes(measure: Measure, calls: list[int]) -> None:
    whole = measure("whole.safetensors", samples=1, replay_samples=0)
    passes = len(calls)
    calls.clear()
    # 6 modules whose output is [2, 2, 64, 48] in float32: 48 KiB each, 16 of each held.
    part = measure(samples=1, replay_samples=0, memory="1600KiB")
    assert len(calls) > passes + 4 and same(part, whole, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"more than the `memory` of 10 KiB; give at least that"):
        measure("b.safetensors", memory="10KiB")


def test_a_file_of_another_setting_is_left_alone(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = measure(samples=1, replay_samples=0)
    assert prior.path is not None
    before = prior.path.read_bytes()
    monkeypatch.setattr("videoaccel.calibration.calibrate.encode_texts", lambda order: pytest.fail("work began"))
    with pytest.raises(FileExistsError, match="was begun for steps 4, here 5; choose another `output`"):
        measure(steps=5)
    with pytest.raises(FileExistsError, match=r"guidance 4\.0, here 2\.0"):
        measure(guidance=2.0)
    with pytest.raises(FileExistsError, match="was begun for methods soda, here soda, teacache"):
        measure(methods=("soda", "teacache"))
    part_path(tmp_path / "b.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b\.part\.safetensors: it is a folder"):
        measure("b.safetensors")
    with pytest.raises(FileNotFoundError, match="alexnet"):
        measure("c.safetensors", backbones=str(tmp_path))
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(OSError, match="is not a folder"):
        calibrate(CalibrateSettings(frames=1, steps=4))
    assert prior.path.read_bytes() == before


def test_without_an_output_it_goes_where_generate_looks(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pipeline_folder: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields: dict[str, Any] = {"steps": 4, "frames": 5, "samples": 1, "replay_samples": 0, "methods": "soda"}
    prior = calibrate(CalibrateSettings(model=str(pipeline_folder), **fields))
    assert prior.path is not None and prior.path.parent == shelf()[0]
    assert prior.path.name.startswith(f"{pipeline_folder.name}-32x32-5f-4steps-g4-float32-")
    assert prior.path.name.endswith("-soda.safetensors")
    assert find_prior(prior.setting) is not None


def test_prompts_of_the_demo_model_are_from_its_training_words() -> None:
    prompts = builtin_prompts("demo")
    assert len(set(prompts)) > 60 and builtin_prompts("opensora-v1.2") == PROMPTS
    assert not any(is_held_out(actor) for prompt in prompts for actor in Scene.parse(prompt).actors)


def test_prompts_of_ones_own(measure: Measure) -> None:
    prior = measure(prompts=("x", "y"), samples=3, replay_samples=0, seed=7)
    assert prior.info["samples"] == [[7, "x"], [8, "y"], [9, "x"]]


def test_methods() -> None:
    assert "soda" in chosen_methods(()) and chosen_methods(("soda",)) == ("soda",)
    with pytest.raises(ValueError, match=r"fora needs no calibration; those that do are .*soda"):
        chosen_methods(("fora",))
    with pytest.raises(ValueError, match="unknown method 'sodda'; did you mean 'soda'"):
        chosen_methods(("sodda",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 2}, "steps"),
        ({"samples": 0}, "samples"),
        ({"memory": "much"}, "a size such as 2GiB or 500MB is wanted, got 'much'"),
        ({"size": "64x64", "resolution": "240p"}, "give `size`, or `resolution`"),
        ({"sample": 1}, "sample"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrateSettings(**values)


def test_sizes_of_memory() -> None:
    assert [parse_bytes(text) for text in ("2GiB", "500 MB", "1.5kib", 7)] == [2 << 30, 500_000_000, 1536, 7]


def test_a_pipeline_gives_a_run_to_measure(pipeline_folder: Path) -> None:
    pipe = VideoPipeline.from_pretrained(pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    request = pipe.request(PROMPT, seed=3)
    run = pipe.denoising(request)
    from videoaccel.generation.prepared import plain

    with torch.inference_mode():
        assert torch.equal(plain(run), pipe(PROMPT, seed=3, output_type="latent").frames)


def test_the_curve_says_what_calls_buy(measure: Measure, make: Workshop, calls: list[int]) -> None:
    told: list[tuple[str, int, int]] = []
    prior = measure(steps=8, replay_samples=1, listener=lambda *event: told.append(event))
    curve = prior.tables["soda.psnr"]
    assert [k for k in range(1, 9) if not curve[k - 1].isnan()] == [1, 2, 3, 4, 5, 6]
    assert curve[5] > curve[1] > 0 and prior.samples["soda.psnr"] == 2 == len(prior.info["curved"])
    counted = [done for stage, done, _ in told if stage == "curve"]
    assert counted[-1] == 2 * (8 + 1 + 2 + 3 + 4 + 5 + 6), "of both samples, though one is replayed"

    before = len(calls)
    again = measure(steps=8, replay_samples=1)
    assert len(calls) == before, "a curve that is there is not measured again"
    assert torch.equal(again.tables["soda.psnr"].nan_to_num(), curve.nan_to_num())

    for target in (float(curve[2]), float(curve[5])):
        make(prior=str(prior.path), steps=8, frames=5, min_psnr=target)
        fewest = fewest_calls(curve.tolist(), target, what="min_psnr")
        assert make.record()["acceleration"]["loops"][0]["network_calls"] == fewest <= 6


def test_lpips_has_its_curve_where_its_network_is(measure: Measure, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="alexnet"):
        measure(backbones=str(tmp_path))
    standin.save("alexnet", tmp_path / "alexnet_model" / "alexnet-owt-7be5be79.pth")
    tables = measure(steps=8, samples=1, replay_samples=1, backbones=str(tmp_path)).tables
    assert tables["soda.lpips"].isnan().tolist() == tables["soda.psnr"].isnan().tolist()
    assert 0 < tables["soda.lpips"][5] < tables["soda.lpips"][1]


def test_fitted_steps_are_added_and_change_nothing_else(measure: Measure, calls: list[int]) -> None:
    plain = measure("plain.safetensors", replay_samples=1)
    told: list[tuple[str, int, int]] = []
    prior = measure("plain.safetensors", replay_samples=1, fit_samples=4, listener=lambda *event: told.append(event))
    added = {name for name in prior.tables if name.startswith("soda.fitted.")}
    assert prior.tables.keys() - plain.tables.keys() == added and len(added) == 4
    for name, table in plain.tables.items():
        assert torch.equal(prior.tables[name].nan_to_num(-1), table.nan_to_num(-1))
    assert prior.samples["soda.fitted.quality"] == 4 and prior.samples["soda.cache"] == 2
    fit = [event for event in told if event[0] == "fit"]
    assert fit[0][1] == 0 and fit[-1][1] <= fit[-1][2]
    fitted = [row for row in range(4) if not prior.tables["soda.fitted.quality"][row].isnan().any()]
    assert fitted and all(prior.tables["soda.fitted.anchors"][row].sum() == row + 1 for row in fitted)
    before = len(calls)
    again = measure("plain.safetensors", replay_samples=1, fit_samples=4)
    assert len(calls) == before and same(prior, again)


def test_steps_are_fitted_unasked_where_there_are_samples_enough(measure: Measure, calls: list[int]) -> None:
    prior = measure(samples=8, replay_samples=0)
    assert len(prior.info["fitted"]) == 8 and prior.samples["soda.fitted.quality"] == 8
    calls.clear()
    assert measure(samples=8, replay_samples=0).info["fitted"] == prior.info["fitted"] and not calls
    searched = measure(samples=8, replay_samples=0, fit_search=2, fit_samples=8)
    assert searched.info["fitted"][-1] == "2 rounds of search" and calls


def test_of_too_few_samples_none_could_be_held_out(measure: Measure) -> None:
    notes: list[str] = []
    prior = measure(fit_samples=3, note=notes.append)
    assert "soda.fitted.anchors" not in prior.tables
    assert "nothing is fitted: of 3 samples none is held out, 4 would do" in notes
