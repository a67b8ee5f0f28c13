"""Whatever is in a file, its reader takes it or says in a sentence, with the file's name, what is wrong with it."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tests.common.damage import changed, json_file, safetensors_file, values
from tests.models.networks import tiny_stdit
from tests.planning.test_prior import a_prior
from tests.routers.fixtures import router_file
from tests.tiny_pipeline import DEFAULTS
from videoaccel.cli.generate import gather
from videoaccel.common.reading import read_prompts
from videoaccel.comparison.log import Log
from videoaccel.evaluation.clips import find_clips, read_prompts_file
from videoaccel.evaluation.rows import RowFile
from videoaccel.generation.loading import find_model, load_scheduler, transformer_class
from videoaccel.jobs.resolve import policy_of
from videoaccel.jobs.samples import suite_prompts
from videoaccel.jobs.sidecar import Sidecar
from videoaccel.models.checkpoint import read_config
from videoaccel.models.lora import read_lora
from videoaccel.models.stdit import STDiT3
from videoaccel.models.weights import read_state
from videoaccel.planning.costs_cache import CostsCache
from videoaccel.planning.prior import Prior
from videoaccel.planning.router_file import RouterFile
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.gallery import Gallery
from videoaccel.rendering.job import make_jobs
from videoaccel.rendering.jobs_file import read_jobs
from videoaccel.rendering.state import read_status
from videoaccel.reporting.read import read_source
from videoaccel.settings.generate import GenerateSettings
from videoaccel.text.cache import TextCache, TextKey
from videoaccel.text.prompts import cut_options


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: Of the file, in a folder of its own.
        files: Damaged ones.
        read: Reads it, as far as it goes without a model.
        silent: Whether a damaged file is passed over, so that there is no error at all.
    """

    name: str
    files: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]
    silent: bool = False


SETTINGS: dict[str, Any] = {
    "prompt": ["a red circle"], "steps": 3, "frames": 5, "size": "32x32", "guidance": 4.0, "seed": 3, "model": "demo",
    "accel": "fora", "accel_options": {"period": 2}, "scheduler": {"base_size": 64}, "output": "a.mp4", "fps": 8.0,
    "images": [], "text_cache": False, "dtype": "float32", "speedup": None, "cache_memory": "2GiB", "samples": 1,
}  # fmt: skip
SIDECAR = {
    "format": 1, "prompt": "a", "seed": 3, "settings": SETTINGS, "inputs": {"a.png": "0" * 64},
    "model": {"files": {"a/b.json": "0" * 64, "t": None}}, "versions": {"torch": "2"},
    "machine": {"platform": "x", "device": "cpu", "name": "m"}, "seconds": {"denoise": 1.0},
    "output": {"file": "a.mp4", "sha256": "0", "frames": 5, "height": 3, "width": 3, "fps": 8.0},
    "created": "2026-01-01T00:00:00+00:00", "job": {"id": "0123456789abcdef", "worker": "w", "memory": {"steps": []}},
    "acceleration": {"method": "fora"}, "peak_memory_bytes": 3, "ranks": {"guidance": 1, "sequence": 1},
}  # fmt: skip
GRID = {"sites": ["space.0.attn", "time.0.attn"], "steps": ["cc", "rf", "cc"]}
COMPARED = {
    "model": "demo", "command": "c", "machine": {"name": "m"}, "versions": {"torch": "2"}, "at_speedup": [],
    "holds": {"size": [64, 64], "frames": 17, "steps": 30, "guidance": 4.0, "dtype": "float32"},
    "rows": [{"method": method, "setting": "", "error": None, "clips": 2, "failed": 0, "latency_s": 1.0,
              "speedup_latency": 1.5, "speedup_latency_low": 0.9, "speedup_latency_high": 1.1, "speedup_flops": 1.0,
              "peak_memory": 3, "cache_bytes": 1, "psnr": psnr, "ssim": 0.9, "worst_psnr": 25.0, "worst_prompt": "a",
              "world": {}} for method, psnr in (("exact", "inf"), ("fora", 30.0))],
}  # fmt: skip
MEASURED = [
    {"format": "videoaccel-comparison-1", "kind": "header", "holds": {"a": 1}},
    {"kind": "quality", "method": "fora", "setting": "", "prior": "", "prompt": "a", "seed": 0, "repeat": None,
     "psnr": 31.0, "ssim": 0.8, "world": {"colour": [3, 4]}, "flops": 3, "fired": True, "digest": "0",
     "cache_bytes": 1, "grid": GRID},
    {"kind": "timing", "method": "fora", "setting": "", "prior": "", "prompt": "a", "seed": 0, "repeat": 0,
     "seconds": 1.0, "exact_seconds": 1.0, "plan_seconds": 0.0, "peak_memory": None},
]  # fmt: skip
SCORED = {
    "folder": "f", "command": "c", "vbench": {"quality": 0.5, "withheld": "w"}, "not_run": {"lpips": ["no"]},
    "scores": [{"metric": "psnr", "title": "PSNR", "score": 1.0, "unit": "dB", "measured": 1, "failed": 0,
                "worst": "a", "worst_value": 1.0}],
}  # fmt: skip
INFO = [{"prompt_en": "a cat", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}}]
ROW = {"clip": "a.mp4", "metric": "psnr", "key": "k", "score": {"value": 1.0, "weight": 1.0, "counted": 1,
       "frames": [1.0], "details": {}}}  # fmt: skip
COSTS = {"format": 1, "key": {"device": "a"}, "modules": [[["space", "attn"], [[1.0, 2.0]]]], "kept": [], "rest": 1.0}
MANIFEST = [
    {"time": "2026-01-01T00:00:00+00:00", "worker": "w", "event": "done", "job": "0123456789abcdef", "seconds": 1.0},
    {"time": "2026-01-01T00:00:01+00:00", "worker": "w", "event": "gave_up", "job": "0123456789abcdef", "error": "e"},
]  # fmt: skip
PLAN = {
    "file": "x",
    "jobs": [{"id": "0123456789abcdef", "name": "sea", "unit": "0123456789abcdef", "line": 1, "prompt": "a"}],
}
INDEX = {
    "_class_name": "VideoPipeline", "transformer": ["videoaccel.models.stdit", "STDiT3"], "defaults": DEFAULTS,
    "scheduler": ["videoaccel.sampling.rectified_flow", "RectifiedFlowScheduler"],
}  # fmt: skip
FLOW = {"_class_name": "RectifiedFlowScheduler", "base_size": 64, "num_train_timesteps": 1000}
KEY = TextKey("e", 4, torch.float32)


def lines(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """Damaged files with a JSON value a line."""
    plain = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    damaged = values(rows).map(
        lambda found: "".join(
            f"{json.dumps(row)}\n" for row in (found if isinstance(found, list) else [found])
        ).encode()
    )
    return st.one_of(damaged, changed(plain), st.just(plain))


def yaml_file(value: Any) -> st.SearchStrategy[bytes]:
    """Damaged YAML."""
    plain = yaml.safe_dump(value).encode()
    as_json = values(value).map(lambda one: json.dumps(one).encode())  # which YAML reads, too
    return st.one_of(as_json, changed(plain), st.just(b"a: &a [*a]\n"), st.just(plain))


def read_sidecar(path: Path) -> None:
    origin = Sidecar.read(path)
    options = dict.fromkeys(("config", "prompt", "prompts", "set_"), None)
    gather({**options, "from_": str(path)})
    origin.check(model={"a/b.json": "0" * 64}, inputs={"a.png": "0" * 64})


def read_jobs_file(path: Path) -> None:
    make_jobs(read_jobs(path))


def read_model(folder: Path) -> None:
    source = find_model(str(folder))
    transformer_class(source)
    load_scheduler(source).set_timesteps(3, height=32, width=32, num_frames=5)


def read_scheduler(path: Path) -> None:
    (path.parents[1] / "model_index.json").write_text(json.dumps(INDEX))
    read_model(path.parents[1])


def read_network(path: Path) -> None:
    network = tiny_stdit(depth=1, model_max_length=40)
    (path.parent / "diffusion_pytorch_model.safetensors").write_bytes(save(dict(network.state_dict())))
    STDiT3.from_pretrained(path.parent)


def read_render(path: Path) -> None:
    folder = RenderFolder(path.parents[len(path.parts) - path.parts.index("out") - 2])
    folder.work.make()
    if not folder.is_one():
        (folder.work / "format").write_text("videoaccel render, format 1\n")
    read_status(folder).as_data()
    Gallery(folder).update(now=True)


def report_of(path: Path) -> None:
    from videoaccel.reporting.data import gather as gathered
    from videoaccel.reporting.report import to_csv

    to_csv({**gathered([read_source(path)]), "title": ""})


def read_policy(path: Path) -> None:
    policy_of(GenerateSettings(prompt="a", accel=str(path)))


def read_log(path: Path) -> None:
    Log(path.parent, holds={"a": 1}, about={})


def saved(write: Callable[[Path], Any], tmp: Path) -> bytes:
    write(tmp)
    return tmp.read_bytes()


def csv_bytes(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Reader]:
    tmp = tmp_path_factory.mktemp("whole")
    network = tiny_stdit(depth=1, model_max_length=40)
    prior = saved(a_prior().save, tmp / "p.safetensors")
    routers = saved(router_file(network).save, tmp / "r.safetensors")
    lora = save({"transformer.a.lora_A.weight": torch.zeros(2, 4), "transformer.a.lora_B.weight": torch.zeros(4, 2)},
                {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})})  # fmt: skip
    torch.save({"ema": {"a": torch.zeros(3)}, "module": {"a": torch.zeros(3)}}, tmp / "w.pth")
    meta = {name: "1" for name in ("format", "cut")}
    states = save({"states": torch.zeros(1, 1, 4, 8), "mask": torch.ones(1, 4)}, meta)
    job_lines = [
        {"prompt": "a", "seed": {"from": 0, "to": 3}},
        {"prompt": "b", "steps": [2, 3], "accel": {"method": "fora"}},
    ]
    table = csv_bytes([["prompt", "seed", "steps"], ["a", "[1, 2]", 3]])
    beat = b"00000000000000000001 60.0 h b s 1 2"
    at = {"job": "x", "done": 1, "batch": []}
    text = b"a red circle\n# no\n\nthe sea\n"
    config = dict(network.config)
    identity = "0123456789abcdef"
    return {
        "sidecar": Reader("a.json", json_file(SIDECAR), read_sidecar),
        "prior": Reader("a.safetensors", safetensors_file(prior, "about"), Prior.load),
        "a prior in a report": Reader("a.safetensors", safetensors_file(prior, "about"), report_of),
        "routers": Reader("a.safetensors", safetensors_file(routers, "about"), RouterFile.load),
        "network": Reader("config.json", json_file(config), read_network),
        "index": Reader("model_index.json", json_file(INDEX), lambda path: read_model(path.parent)),
        "scheduler": Reader("m/scheduler/scheduler_config.json", json_file(FLOW), read_scheduler),
        "config": Reader("config.json", json_file({"num_layers": 3}), read_config),
        "weights": Reader("a.pth", changed((tmp / "w.pth").read_bytes()), read_state),
        "safetensors": Reader("a.safetensors", safetensors_file(routers, "about"), read_state),
        "shards": Reader("model.safetensors.index.json", json_file({"weight_map": {"a": "b.safetensors"}}), read_state),
        "lora": Reader("a.safetensors", safetensors_file(lora, "lora_adapter_metadata"), read_lora),
        "jobs.jsonl": Reader("jobs.jsonl", lines(job_lines), read_jobs_file),
        "jobs.csv": Reader("jobs.csv", changed(table), read_jobs_file),
        "jobs.yaml": Reader("jobs.yaml", yaml_file({"defaults": {"steps": 2}, "jobs": job_lines}), read_jobs_file),
        "jobs.txt": Reader("jobs.txt", changed(text), read_jobs_file),
        "run": Reader("run.yaml", yaml_file(SETTINGS), lambda path: gather(
            {"from_": None, "config": str(path), "prompt": None, "prompts": None, "set_": None})),
        "accel": Reader("accel.yaml", yaml_file({"method": "soda", "speedup": 2.0, "warmup": 2}), read_policy),
        "prompts": Reader("prompts.txt", changed(text), lambda path: read_prompts(str(path))),
        "prompts of an evaluation": Reader("prompts.json", json_file({"a.mp4": "a cat"}), read_prompts_file),
        "vbench": Reader("info.json", json_file(INFO), lambda path: suite_prompts(str(path))),
        "results": Reader("results.json", json_file(COMPARED), report_of),
        "measurements": Reader("rows.jsonl", lines(MEASURED), read_log),
        "measurements in a report": Reader("rows.jsonl", lines(MEASURED), report_of_rows, silent=False),
        "scores": Reader("results.json", json_file(SCORED), report_of),
        "a clip's own sidecar": Reader("a.json", json_file(SIDECAR), clips_beside, silent=True),
        "scored rows": Reader("rows-0.jsonl", lines([ROW, ROW]), lambda path: RowFile(path.parent, 0), silent=True),
        "costs": Reader("x.json", json_file(COSTS), read_costs, silent=True),
        "text states": Reader("x.safetensors", safetensors_file(states), read_states, silent=True),
        "plan": Reader("out/.render/plans/a.json", json_file(PLAN), read_render, silent=True),
        "manifest": Reader("out/manifest/w.jsonl", lines(MANIFEST), read_render, silent=True),
        "beat": Reader("out/.render/workers/w.beat", changed(beat), read_render, silent=True),
        "whereabouts": Reader("out/.render/workers/w.json", json_file(at), read_render, silent=True),
        "lease": Reader(f"out/.render/leases/{identity}.1.lease", json_file({"worker": "w"}), read_render, silent=True),
        "a render's clip": Reader(f"out/clips/a-{identity}/a.json", json_file(SIDECAR), read_rendered, silent=False),
    }  # fmt: skip


def report_of_rows(path: Path) -> None:
    (path.parent / "results.json").write_text(json.dumps(COMPARED))
    report_of(path.parent)


def clips_beside(path: Path) -> None:
    path.with_suffix(".mp4").write_bytes(b"x")
    find_clips(path.parent)


def read_costs(path: Path) -> None:
    cache = CostsCache(path.parent)
    path.replace(cache._path(COSTS["key"]))  # type: ignore[arg-type]
    cache.get(COSTS["key"], blocks={})  # type: ignore[arg-type]
    cache.entries()


def read_states(path: Path) -> None:
    cache = TextCache(path.parent)
    path.replace(cache._path("a", KEY))
    cache.get("a", key=KEY)
    cache.entries()


def read_rendered(path: Path) -> None:
    read_render(path)
    with suppress(FileNotFoundError):
        report_of(path.parents[2])


NAMES = (
    "sidecar", "prior", "a prior in a report", "routers", "network", "index", "scheduler", "config", "weights",
    "safetensors", "shards", "lora", "jobs.jsonl", "jobs.csv", "jobs.yaml", "jobs.txt", "run", "accel", "prompts",
    "prompts of an evaluation", "vbench", "results", "measurements", "measurements in a report", "scores",
    "a clip's own sidecar", "scored rows", "costs", "text states", "plan", "manifest", "beat", "whereabouts", "lease",
    "a render's clip",
)  # fmt: skip


def attempt(reader: Reader, path: Path, what: object) -> None:
    """Read a file: that works, or is a sentence with its name, or nothing at all where it is to be passed over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        assert not reader.silent, f"{error} of {what!r}"
        said = str(error)
        assert path.name in said or str(path.parents[len(Path(reader.name).parts) - 1]) in said, f"{said} names no file"
        assert "\n" not in said and len(said) < 2500, said
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} of {what!r}") from error


def check(reader: Reader, folder: Path, *, examples: int) -> None:
    count = iter(range(10**9))

    @settings(
        max_examples=examples, deadline=None, derandomize=examples < 100, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(reader.files)
    def holds(data: bytes) -> None:
        path = folder / f"{next(count)}" / reader.name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        attempt(reader, path, data[:1500])

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_a_reader(name: str, readers: Mapping[str, Reader], tmp_path: Path) -> None:
    check(readers[name], tmp_path, examples=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_at_length(name: str, readers: Mapping[str, Reader], tmp_path: Path) -> None:
    check(readers[name], tmp_path, examples=400)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_its_place(name: str, readers: Mapping[str, Reader], tmp_path: Path) -> None:
    """Nobody waits for what might come through it."""
    reader = replace(readers[name], silent=False)  # where rows are written, too, it cannot be passed over
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    ended: list[BaseException | None] = []

    def read() -> None:
        try:
            attempt(reader, path, "a pipe")
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert ended == [None], ended or "it waits"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(values({"reference_path": "a.png", "mask_strategy": "0,0,0,-1,1,0.5"}))
def test_options_at_the_end_of_a_prompt(options: Any) -> None:
    with suppress(ValueError):
        cut_options(f"Waves.{json.dumps(options)}")
