"""Comparisons: what is run, what is written down, and what is made of it."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.generation.stand_in_graphs import stand_in
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.common.alone import BusyError
from videoaccel.common.user_warning import Told
from videoaccel.comparison.bench import Bench, Clip, Made
from videoaccel.comparison.compare import RESULTS, TABLE, Comparison, compare, compare_settings
from videoaccel.comparison.log import ROWS, Log
from videoaccel.comparison.run import measure_time
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import curve_of
from videoaccel.generation import cache_memory, maker
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.replay import INSIDE
from videoaccel.models.seam import attention
from videoaccel.session.registry import make_policy
from videoaccel.settings.generate import GenerateSettings

PROMPTS = ("a red circle", "a blue square")
FAST = {"num_frames": 1, "num_inference_steps": 6}
VALUES = {"fora": {"period": [2, 3]}, "fewer_steps": {"share": [0.5]}}


@pytest.fixture(scope="module")
def pipe() -> VideoPipeline:
    return tiny_pipeline()


def small(pipe: VideoPipeline, out: Path, **options: Any) -> Comparison:
    given = {"methods": ["off", "fora", "fewer_steps"], "controls": False, "picture": False, "repeats": 2}
    given |= {"prompts": PROMPTS, "seeds": [0, 1], "timed_clips": 1, **FAST, **options}
    given.setdefault("values", {name: VALUES[name] for name in given["methods"] if name in VALUES})
    return compare(pipe, out=out, **given)


@pytest.fixture(scope="module")
def made(pipe: VideoPipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("compared") / "run"
    return out, small(pipe, out, speedups=[1.5, 50])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bench makes."""
    made: list[str] = []
    make = Bench.make

    def counted(self: Bench, clip: Clip, setting: Setting) -> Made:
        made.append(str(setting))
        return make(self, clip, setting)

    monkeypatch.setattr(Bench, "make", counted)
    return made


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / ROWS).read_text().splitlines()]


# -- what is written


def test_every_setting_has_a_row_for_every_clip(made: tuple[Path, Comparison]) -> None:
    out, comparison = made
    header, *rows = rows_of(out)
    assert header["holds"]["steps"] == 6 and header["machine"]["threads"] == torch.get_num_threads()
    settings = [("exact", ""), ("off", ""), ("fora", "period=2"), ("fora", "period=3"), ("fewer_steps", "share=0.5")]
    quality = [(r["method"], r["setting"], r["prompt"], r["seed"]) for r in rows if r["kind"] == "quality"]
    assert sorted(quality) == sorted((*key, prompt, seed) for key in settings for prompt in PROMPTS for seed in (0, 1))
    timing = [(r["method"], r["setting"], r["repeat"]) for r in rows if r["kind"] == "timing"]
    assert sorted(timing) == sorted((*key, repeat) for key in settings for repeat in (0, 1))
    assert [(r.method, r.setting) for r in comparison.results] == settings


def test_off_is_exact_bit_for_bit(made: tuple[Path, Comparison]) -> None:
    exact, off, *_ = made[1].results
    assert exact.psnr == off.psnr == math.inf and off.ssim == pytest.approx(1.0)
    assert exact.speedup_latency == 1.0 and off.speedup_flops == exact.speedup_flops == 1.0
    assert not made[1].errors


def test_results_say_how_fast_and_how_good(made: tuple[Path, Comparison]) -> None:
    out, comparison = made
    by_name = {f"{result.method} {result.setting}": result for result in comparison.results}
    half, fora = by_name["fewer_steps share=0.5"], by_name["fora period=2"]
    assert half.speedup_flops == pytest.approx(2.0)
    assert fora.psnr is not None and 0 < fora.psnr < 100 and fora.ssim is not None and fora.ssim < 1
    assert fora.speedup_flops is not None and fora.speedup_flops > 1.2 and fora.cache_bytes
    assert fora.worst_psnr is not None and fora.worst_psnr <= fora.psnr and fora.worst_prompt in PROMPTS
    assert fora.latency_low is not None and fora.latency_s is not None and fora.latency_low <= fora.latency_s
    assert (fora.clips, fora.failed) == (4, 0) and len(fora.digest or "") == 16 and fora.world == {}
    written = json.loads((out / RESULTS).read_text())
    assert written["rows"][0]["psnr"] == "inf" and written["rows"][2]["psnr"] == pytest.approx(fora.psnr)
    assert {found["result"] for found in written["at_speedup"] if found["speedup"] == 50} == {"not reached"}
    lines = list(csv.DictReader((out / TABLE).read_text().splitlines()))
    assert [line["method"] for line in lines] == [result.method for result in comparison.results]
    assert float(lines[0]["psnr"]) == math.inf


def test_a_finished_comparison_is_only_summed_up(
    made: tuple[Path, Comparison], pipe: VideoPipeline, calls: list[str]
) -> None:
    out, before = made
    after = small(pipe, out, speedups=[1.5, 50])
    assert calls == [] and after.results == before.results and after.at == before.at


def test_a_stopped_comparison_goes_on(
    pipe: VideoPipeline, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("quality", 7):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(pipe, out, listener=stop, repeats=0)
    done = len(rows_of(out)) - 1
    assert done == 7 and not (out / RESULTS).exists()
    with (out / ROWS).open("a") as file:
        file.write('{"kind": "quality", "half')
    calls.clear()
    small(pipe, out, repeats=0)
    # 13 are left; of these 2 are exact, and the second clip's exact is made again to compare with.
    assert len(calls) == 13 + 1 and calls.count("exact") == 3
    assert len([row for row in rows_of(out) if row["kind"] == "quality"]) == 20
    calls.clear()
    small(pipe, out, prompts=(*PROMPTS, "a star"), repeats=0)
    assert len(calls) == 10, "a further prompt is made, and nothing else"


def test_two_at_once_in_one_folder(pipe: VideoPipeline, tmp_path: Path, calls: list[str]) -> None:
    out = tmp_path / "run"
    said: list[str] = []

    def second(stage: str, done: int, total: int) -> None:
        if not said:
            with pytest.raises(BusyError) as error:
                small(pipe, out)
            said.append(str(error.value))

    small(pipe, out, listener=second, repeats=0, methods=["fora"], values={"fora": {"period": [2]}}, seeds=[0])
    assert said == [f"another process is at work on {out / ROWS}; wait until it ends, or choose another place"]
    assert len(rows_of(out)) == 5 and len(calls) == 4, "nothing is measured twice"
    assert not list(out.glob("*.lock"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_inference_steps": 5}, "steps 6, here 5"), ({"height": 48}, r"size \[32, 32\], here \[48, 32\]")],
)
def test_a_folder_of_another_comparison_is_refused(
    made: tuple[Path, Comparison], pipe: VideoPipeline, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(pipe, made[0], **change)
    other = tiny_pipeline()
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1)
    with pytest.raises(ValueError, match="model "):
        small(other, made[0])
    with pytest.raises(ValueError, match=r"dtype float32, here bfloat16"):
        small(tiny_pipeline().to(torch.bfloat16), made[0])


def test_folders_that_are_none(pipe: VideoPipeline, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.json").write_text("precious")
    with pytest.raises(ValueError, match=r"holds 'results.json' but no rows.jsonl"):
        small(pipe, tmp_path / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="not a folder"):
        small(pipe, tmp_path / "file")
    (tmp_path / "begun" / "methods.png").mkdir(parents=True)
    (tmp_path / "begun" / ROWS).touch()
    with pytest.raises(IsADirectoryError, match=r"methods\.png: it is a folder"):
        small(pipe, tmp_path / "begun")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        small(pipe, tmp_path / "no" / "where")


def test_a_comparison_of_other_clips_is_refused_before_anything_is_loaded(
    tmp_path: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoaccel.comparison.compare.encode_texts", lambda order: pytest.fail("work began"))
    Log(tmp_path, holds={"steps": 6, "model": "x", "size": [32, 32], "frames": 1}, about={})
    asked = GenerateSettings(model=str(pipeline_folder), prompt=("a red circle",), frames=1, steps=5, size="32x32")
    with pytest.raises(ValueError, match=r"of another kind \(steps 6, here 5, guidance None"):
        compare_settings(asked, out=tmp_path, methods=["fora"])


def test_a_comparison_from_before_configurations_were_kept_is_gone_on_with(tmp_path: Path) -> None:
    Log(tmp_path, holds={"steps": 6}, about={})
    Log(tmp_path, holds={"steps": 6, "network": {"depth": 2}}, about={})
    (tmp_path / "new").mkdir()
    Log(tmp_path / "new", holds={"steps": 6, "network": {"depth": 2}}, about={})
    with pytest.raises(ValueError, match=r"of another kind \(network {'depth': 2}, here {'depth': 3}\)"):
        Log(tmp_path / "new", holds={"steps": 6, "network": {"depth": 3}}, about={})


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    Log(tmp_path, holds={}, about={})
    with (tmp_path / ROWS).open("a") as file:
        file.write("broken\n")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        Log(tmp_path, holds={}, about={})


@pytest.mark.parametrize("change", [{"kind": []}, {"psnr": "high"}, {"seed": None}, {"world": {"colour": [1, 0]}}])
def test_a_row_of_another_shape_is_named(
    made: tuple[Path, Comparison], pipe: VideoPipeline, tmp_path: Path, change: dict[str, Any]
) -> None:
    header, row, *_ = rows_of(made[0])
    (tmp_path / ROWS).write_text(f"{json.dumps(header)}\n{json.dumps(row | change)}\n")
    with pytest.raises(ValueError, match="line 2 is damaged; delete the line to measure anew what it held"):
        Log(tmp_path, holds=header["holds"], about={})
    (tmp_path / ROWS).write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    assert len(Log(tmp_path, holds=header["holds"], about={}).rows) == 1


# -- what is no result


def test_a_method_that_never_fires_is_an_error(pipe: VideoPipeline, tmp_path: Path) -> None:
    values = {"fora": {"period": [1, 2]}}
    comparison = small(pipe, tmp_path / "run", methods=["fora"], values=values, speedups=[1.0], repeats=1, seeds=[0])
    (never,) = comparison.errors
    assert never.setting == "period=1" and "never fired" in str(never.error)
    assert len(curve_of(comparison.results, "fora", by="latency")) == 1


def test_a_failed_clip_is_counted(pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Bench.decode

    def broken(self: Bench, made: Made) -> Any:
        if made.session.job.seed == 1 and made.session.counts().get("reuse"):
            made = made._replace(latents=torch.full_like(made.latents, math.nan))
        return decode(self, made)

    monkeypatch.setattr(Bench, "decode", broken)
    comparison = small(pipe, tmp_path / "run", methods=["fora"], values={"fora": {"period": [2]}}, repeats=1)
    exact, fora = comparison.results
    assert (exact.failed, fora.failed, fora.clips) == (0, 2, 4)
    assert "2 of 4 clips failed: the clip has values that are not a number" in str(fora.error)
    assert curve_of(comparison.results, "fora", by="latency") == []


def test_a_method_without_its_prior_is_named(
    pipe: VideoPipeline, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    values = {"soda": {"anchors": [3]}}
    with pytest.warns(Told, match="no result will there be of soda, teacache: it needs a prior"):
        comparison = small(pipe, tmp_path / "run", methods=["soda", "teacache"], values=values, repeats=0)
    comparison = replace(comparison, results=[row for row in comparison.results if row.method != "teacache"])
    (soda,) = comparison.errors
    assert soda.method == "soda" and "needs a prior" in str(soda.error) and set(calls) == {"exact"}


def test_bad_input_is_one_sentence(pipe: VideoPipeline, tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            small(pipe, tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()

    refused("at least one text", prompts=[])
    refused("at least one text", prompts="a red circle")
    refused("prompt 2 of 2 is empty", prompts=["a", " "])
    refused("there is no seed", seeds=[])
    refused("between 0 and", seeds=[-1])
    refused("at least 1, got 0.5", speedups=[0.5])
    refused("0 times or more", repeats=-1)
    refused("loops is no option", loops=2)


def test_missing_extras_are_named(pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = "videoaccel.comparison.asked.importlib.util.find_spec"
    with monkeypatch.context() as patch:
        patch.setattr(find, lambda name: name != "torchmetrics" or None)
        with pytest.raises(ValueError, match=r"torchmetrics.*videoaccel\[eval\]"):
            small(pipe, tmp_path / "run")
    monkeypatch.setattr(find, lambda name: name != "matplotlib" or None)
    found = small(pipe, tmp_path / "run", picture=True)
    assert {path.name for path in found.files} == {RESULTS, TABLE}
    assert [note for note in found.notes if "matplotlib" in note and "videoaccel[report]" in note]


def test_the_demo_world_is_looked_at(pipe: VideoPipeline, tmp_path: Path) -> None:
    prompt = "a red circle moves left on a dark blue background"
    comparison = small(pipe, tmp_path / "run", prompts=[prompt], methods=["exact"], seeds=[0], repeats=0)
    assert set(comparison.results[0].world) == {"background", "colour", "shape", "motion", "scene"}


def test_exact_is_timed_again_where_the_machine_may_have_changed(tmp_path: Path) -> None:
    """Runs take 10 seconds each on a clock of our own, so that every second setting needs a new exact run."""
    now, made = [0.0], []

    class Ten:
        warm = frozenset({("exact", ""), ("fora", "2"), ("fora", "3"), ("fora", "4")})

        def make(self, clip: Clip, setting: Setting) -> Made:
            made.append(setting.name or setting.method)
            now[0] += 10
            return Made(torch.zeros(1), 1, cast(Any, None), 10 + len(made), 0, None)

        def prior_hash(self, setting: Setting, clip: Clip) -> str:
            return ""

    settings = [Setting("exact"), *(Setting("fora", str(period)) for period in (2, 3, 4))]
    log = Log(tmp_path, holds={}, about={})
    measure_time(cast(Bench, Ten()), settings, [Clip("a", 0)], repeats=1, log=log, clock=lambda: now[0])
    assert made == ["exact", "2", "3", "exact", "4"]
    assert [row["exact_seconds"] for row in log.rows.values()] == [11, 11, 11, 14]


# -- graphs


def test_a_row_says_what_was_replayed(tmp_path: Path) -> None:
    """As a generation would: whole calls of methods that decide about steps, nothing where one looks into blocks."""
    pipe, graphs = tiny_pipeline(), stand_in()
    pipe.graphs = graphs
    values: dict[str, Any] = {"fora": {"period": [2]}, "fewer_steps": {"share": [0.5]}}
    made = small(pipe, tmp_path / "on", methods=["off", "fora", "fewer_steps"], values=values, seeds=[0])
    found = {result.method: (result.replayed, result.not_replayed) for result in made.results}
    looks = (0.0, INSIDE)
    assert found == {"exact": (1.0, None), "fewer_steps": (1.0, None), "off": looks, "fora": looks}
    timed = [row["graph_calls"] for row in rows_of(tmp_path / "on") if row.get("kind") == "timing"]
    assert timed and not any("recorded" in one for one in timed), "what is timed is replayed, not recorded"
    assert {one["replayed"] for one in timed if "plain" not in one} == {6, 3}
    pipe.graphs = None
    plain = small(pipe, tmp_path / "off", methods=["off", "fora", "fewer_steps"], values=values, seeds=[0], repeats=0)
    assert [(one.psnr, one.digest, one.replayed) for one in plain.results] == [
        (one.psnr, one.digest, None) for one in made.results
    ]


def test_calls_with_another_attention_kernel_are_replayed_as_in_a_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attend(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return attention(q, k, v, mask)

    monkeypatch.setattr(maker, "attention_kernel", lambda name: attend)
    pipe = tiny_pipeline()
    pipe.graphs = stand_in()
    states = {"a red circle": pipe.encode_prompt("a red circle")}
    bench = Bench(pipe, states, {"num_frames": 1, "num_inference_steps": 3, "attention_backend": "efficient"})
    made = bench.make(Clip("a red circle", 0), Setting("exact"))
    assert made.graph_calls == {"recorded": 1, "replayed": 3}


# -- memory


def test_a_method_keeps_within_what_is_free_as_in_a_generation(
    monkeypatch: pytest.MonkeyPatch, pipe: VideoPipeline, tmp_path: Path
) -> None:
    """On a GPU four fifths of it, if nobody has said; the row says which form that left, and has its clip."""
    states = {"a red circle": pipe.encode_prompt("a red circle")}
    options = {"num_frames": 1, "num_inference_steps": 6}
    clip, fora = Clip("a red circle", 0), Setting("fora", "", make_policy("fora"))
    trunk = Bench(pipe, states, options).make(clip, Setting("fora", "trunk", make_policy("fora", slots="trunk")))
    roomy = Bench(pipe, states, options).make(clip, fora)
    assert not torch.equal(trunk.latents, roomy.latents)
    assert (roomy.coarser, roomy.session.foretold_bytes) == ({}, None), "of a CPU nothing is asked"
    monkeypatch.setattr(cache_memory, "free_on_gpu", lambda device: roomy.session.peak_bytes)
    made = Bench(pipe, states, options).make(clip, fora)
    assert torch.equal(made.latents, trunk.latents)
    assert made.session.peak_bytes == made.session.foretold_bytes == trunk.session.peak_bytes
    said = Bench(pipe, states, {**options, "cache_memory": "1GiB"}).make(clip, fora)
    assert torch.equal(said.latents, roomy.latents), "what is said counts more than what is free"
    found = small(pipe, tmp_path / "run", methods=["fora"], values={"fora": {"period": [2]}}, seeds=[0], repeats=0)
    assert [result.coarser for result in found.results] == [None, "slots trunk"]
    assert {result.cache_bytes for result in found.results[1:]} == {trunk.session.peak_bytes}
    monkeypatch.setattr(cache_memory, "free_on_gpu", lambda device: 1000)
    found = small(pipe, tmp_path / "none", methods=["fora"], values={"fora": {"period": [2]}}, seeds=[0], repeats=0)
    assert "four fifths of the memory that is free here" in str(found.results[1].error)
