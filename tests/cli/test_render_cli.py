"""``videoaccel render | status | cancel`` as a user meets them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import ROOT, Cli, Result, here, python
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.jobs import parts
from videoaccel.media.writer import Writer
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.manifest import read_manifests

Render = Callable[..., Result]


@pytest.fixture
def render(cli: Cli, pipeline_folder: Path) -> Render:
    """Runs ``videoaccel render jobs.jsonl`` with the tiny model and small clips."""
    Path("run.yaml").write_text(json.dumps({"model": str(pipeline_folder), "frames": 1, "steps": 2, "threads": 1}))

    def call(*arguments: object, jobs: list[Any] | None = None, out: str = "out", file: str = "jobs.jsonl") -> Result:
        if jobs is not None:
            Path(file).write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
        return cli("render", file, "-o", out, "--config", "run.yaml", *arguments)

    return call


def clips(out: str = "out") -> dict[str, Path]:
    """Finished clips by name."""
    return {path.name.rpartition("-")[0]: path for path in RenderFolder(Path(out)).finished().values()}


def test_a_render_and_its_clips(cli: Cli, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    text, build = parts.load_text_encoder, VideoPipeline.from_pretrained
    monkeypatch.setattr(parts, "load_text_encoder", lambda *a, **o: loaded.append("text") or text(*a, **o))
    monkeypatch.setattr(VideoPipeline, "from_pretrained", lambda *a, **o: loaded.append("networks") or build(*a, **o))
    jobs = [
        {"prompt": "a red circle", "name": "red", "seed": 3},
        {"prompt": "a blue circle", "name": "blue", "steps": 3},
    ]
    done = render(jobs=jobs)
    assert done.code == 0, done.err
    assert loaded == ["text", "networks"], "all texts first, then the networks, each once"
    assert "2 of 2 clips done (2 made now" in done.out and "done red" in done.err and "encode text" in done.err
    assert sorted(clips()) == ["blue", "red"]
    folder = clips()["red"]
    assert sorted(path.name for path in folder.iterdir()) == ["poster.jpg", "red.json", "red.mp4"]
    record = json.loads((folder / "red.json").read_text())
    assert record["output"]["file"] == record["settings"]["output"] == "red.mp4"
    assert record["job"]["id"] == folder.name.rpartition("-")[2] and record["job"]["memory"]["steps"] == []
    assert sorted(path.name for path in Path("out").iterdir() if not path.name.startswith(".")) == [
        "clips", "index.html", "manifest",
    ]  # fmt: skip
    again = cli("generate", "--from", folder / "red.json", "-o", "again.mp4")
    assert again.code == 0 and "the same bytes as" in again.out, again.err
    loaded.clear()
    second = render("--quiet")
    assert second.code == 0 and (second.out, second.err) == ("", "") and loaded == []
    jobs[0]["seed"] = 4
    changed = render(jobs=jobs)
    assert changed.code == 0 and "2 of 2 clips done (1 made now" in changed.out and "done blue" not in changed.err
    assert [row["event"] for row in read_manifests(RenderFolder(Path("out")).manifest)].count("done") == 3


def test_bad_lines_are_all_told_and_nothing_is_written(render: Render) -> None:
    done = render(jobs=[{"prompt": "fine"}, {"prompt": "a", "steps": "many"}, {"prompt": "b", "accel": "warp"}])
    assert done.code == 2 and done.out == ""
    assert "jobs.jsonl, line 2: steps: 'many'" in done.err
    assert "jobs.jsonl, line 3: unknown method 'warp'" in done.err
    assert done.err.endswith("videoaccel: 2 problems in jobs.jsonl; nothing was rendered\n")
    done = render(jobs=[{"prompt": "fine"}, {"prompt": "b", "accel": "warp"}])
    assert done.code == 2 and "line 2" in done.err and "warp" in done.err
    assert "out" not in here()


def test_a_dry_run_says_what_it_will_take(render: Render) -> None:
    jobs = [{"prompt": "a", "seed": {"from": 0, "to": 2}}, {"prompt": "a", "seed": 1}]
    done = render("--dry-run", "--no-time", jobs=jobs)
    assert done.code == 0, done.err
    assert "3 clips, 0 of them finished, 3 to make" in done.out and "time unknown (--no-time)" in done.out
    assert "at most 1.5 KiB a clip, uncompressed" in done.out and "line 1: clips/a-" in done.out
    assert "line 2 asks for the same clip as line 1" in done.err and "out" not in here()
    predicted = render("--dry-run", jobs=jobs)
    assert "of denoising, predicted" in predicted.out
    render("--quiet", jobs=jobs[1:])
    measured = render("--dry-run", jobs=jobs)
    assert "3 clips, 1 of them finished, 2 to make" in measured.out and "a clip, as measured" in measured.out


def test_some_jobs_fail_and_the_rest_go_on(cli: Cli, render: Render) -> None:
    with Writer("short.mp4", fps=8) as writer:
        writer.write(np.zeros((5, 32, 32, 3), np.uint8))
    jobs = [
        {"prompt": "a", "video": "short.mp4", "edit": 0.9, "frames": 17, "name": "bad"},
        {"prompt": "b", "name": "good"},
    ]
    done = render(jobs=jobs)
    assert done.code == 3 and "1 of 2 clips done" in done.out and "1 given up" in done.out
    assert "given up: bad" in done.err and "too short for an edit" in done.err and sorted(clips()) == ["good"]
    status = cli("status", "out")
    assert status.code == 0 and "1 done, 0 running, 1 failed" in status.out and "too short" in status.out
    found = json.loads(cli("status", "out", "--json").out)
    assert found["counts"]["failed"] == 1 and {job["state"] for job in found["jobs"]} == {"done", "failed"}
    with Writer("short.mp4", fps=8) as writer:
        writer.write(np.zeros((17, 32, 32, 3), np.uint8))
    assert render().code == 0, "another file, another job"


def test_cancelling(cli: Cli, render: Render) -> None:
    assert cli("status", "out").code == 2
    assert render(jobs=[{"prompt": "a"}]).code == 0
    assert cli("cancel", "out", "nothing").err.startswith("videoaccel: out has no job 'nothing'")
    assert "finished already" in cli("cancel", "out", "a").out
    (Path("out/.render/leases") / "x").touch()
    jobs = [{"prompt": "a"}, {"prompt": "b", "name": "later"}]
    Path("jobs.jsonl").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
    render("--dry-run", "--no-time")
    assert cli("cancel", "out").code == 0
    assert render().code == 0, "what was cancelled before it began is over"


def test_unicode_traversal_and_equal_names_stay_inside(render: Render) -> None:
    jobs = [
        {"prompt": "кот 🐈 \u2028 猫", "name": "../../../кот"},
        {"prompt": "b", "name": "../../../кот"},
        {"prompt": "c", "output": "/tmp/../etc/x.gif"},
        {"prompt": "d", "name": "a\x00b\n<script>"},
    ]
    done = render(jobs=jobs)
    assert done.code == 0, done.err
    assert len(RenderFolder(Path("out")).finished()) == 4
    assert set(here()) - {".cache"} == {"jobs.jsonl", "out", "run.yaml"}
    assert all(path.parent == Path("out/clips") and path.resolve().is_relative_to(Path().resolve())
               for path in RenderFolder(Path("out")).finished().values())  # fmt: skip
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert r"\u732b" in page and page.count("</script>") == 2  # 猫, as scripts spell it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "0"), "--workers must be above 0, got 0"),
        (("--timeout", "-1"), "--timeout must be above 0, got -1"),
        (("--engine", "slurm"), "--engine is local or ray, got 'slurm'"),
        (("--allow-batching", "0"), "at least 1 job is made at once, got 0"),
        (("--set", "steps=x"), "--set steps"),
    ],
)
def test_options_that_cannot_be(render: Render, arguments: tuple[str, ...], message: str) -> None:
    done = render(*arguments, jobs=[{"prompt": "a"}])
    assert done.code == 2 and message in done.err and "out" not in here()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_several_processes_and_one_that_is_killed(render: Render, pipeline_folder: Path) -> None:
    Path("jobs.jsonl").write_text(json.dumps({"prompt": "a", "seed": {"from": 0, "to": 19}}))
    command = python("-m", "videoaccel", "render", "jobs.jsonl", "-o", "out", "--config", "run.yaml", "--workers", "2")
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    killed = False
    while process.poll() is None and time.monotonic() < until:
        for path in Path("out/.render/workers").glob("*.beat"):
            if not killed and len(RenderFolder(Path("out")).finished()) >= 3:
                os.kill(int(path.read_text().split()[5]), signal.SIGKILL)
                killed = True
        time.sleep(0.1)
    out, err = process.communicate()
    assert process.returncode == 0 and killed, err
    assert "20 of 20 clips done" in out and len(clips()) <= 20
    assert list(Path("out/.render/leases").iterdir()) == [] and list(Path("out/.render/staging").iterdir()) == []


@pytest.mark.slow
def test_a_scheduler_that_stops_it(render: Render) -> None:
    Path("jobs.jsonl").write_text(json.dumps({"prompt": "a", "steps": 40, "frames": 17, "seed": {"from": 0, "to": 99}}))
    command = python("-m", "videoaccel", "render", "jobs.jsonl", "-o", "out", "--config", "run.yaml", "--grace", "20")
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if RenderFolder(Path("out")).finished():
            process.terminate()
            break
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from what was kept" in err, (out, err)
    assert list(Path("out/.render/leases").iterdir()) == [] and list(Path("out/.render/staging").iterdir()) == []


def test_ranks_are_said_once_for_all_jobs(render: Render) -> None:
    wrong = render("--dry-run", jobs=[{"prompt": "a", "gpus": 2}, {"prompt": "b", "sp": 2}])
    assert wrong.code == 2
    assert "line 1: gpus: is said once for all jobs, --gpus beside the job file" in wrong.err
    assert "line 2: sp: is said once for all jobs, --sp beside the job file" in wrong.err
    for flags, message in (
        (("--sp", "2"), "--sp 2 needs ranks: give --gpus, or start it by torchrun"),
        (("--gpus", "2", "--workers", "2"), "--workers 2: of several ranks every group is a worker"),
        (("--gpus", "2", "--engine", "ray"), "--engine ray starts workers of its own"),
        (("--gpus", "2", "--set", "sp=2"), "--set sp: give --sp"),
        (("--gpus", "3", "--sp", "2"), "do not multiply to 3 ranks"),
    ):
        done = render("--dry-run", *flags, jobs=[{"prompt": "a"}])
        assert done.code == 2 and message in done.err, (flags, done.err)


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "workers"), [(("--gpus", "2"), 2), (("--gpus", "4", "--sp", "2"), 2)])
def test_groups_of_ranks_are_workers(
    render: Render, flags: tuple[str, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips made alone are bit for bit those of one process; those that are shared within a grey level."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = [{"prompt": f"a red circle {k}", "name": f"c{k}", "frames": 5, "format": "frames"} for k in range(4)]
    assert render(jobs=jobs, out="alone").code == 0
    done = subprocess.run(
        python(
            "-m", "videoaccel", "render", "jobs.jsonl", "-o", "out", "--config", "run.yaml", "--device", "cpu", *flags
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 of 4 clips done (4 made now") == 1, "one rank speaks, of all"
    assert all(f"done c{k}" in done.stderr for k in range(4))
    names = set()
    for name, folder in clips().items():
        record = json.loads((folder / f"{name}.json").read_text())
        names.add(record["job"]["worker"])
        shared = "--sp" in flags
        assert record["ranks"]["data"] == workers and record["ranks"]["sequence"] == 1 + shared
        for path in sorted((clips("alone")[name] / name).iterdir()):
            pictures = [np.asarray(Image.open(where)).astype(int) for where in (path, folder / name / path.name)]
            assert abs(pictures[0] - pictures[1]).max() <= shared
    assert len(names) == workers
    assert not list(RenderFolder(Path("out")).leases.path.iterdir())
    again = subprocess.run(
        python(
            "-m", "videoaccel", "render", "jobs.jsonl", "-o", "out", "--config", "run.yaml", "--device", "cpu", *flags
        ),
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0 and "4 of 4 clips done (0 made now" in again.stdout


def test_vbenchs_prompts(render: Render, cli: Cli) -> None:
    """Sample k of a prompt has seed + k and is published as k, also where clips are made in several goes."""
    rows = [("a red circle", "color"), ("a dog", "scene")]
    Path("full.json").write_text(json.dumps([{"prompt_en": prompt, "dimension": [name]} for prompt, name in rows]))
    options = ("--vbench", "full.json", "-o", "night", "--config", "run.yaml", "--set", "frames=2")
    first = cli("render", *options)
    assert first.code == 0, first.err
    assert sorted(path.name for path in Path("night/vbench").iterdir()) == ["a dog-0.mp4", "a red circle-0.mp4"]
    done = cli("render", *options, "--samples", "3")
    assert done.code == 0 and "6 clips for VBench in night/vbench" in done.out
    names = [f"{prompt}-{k}.mp4" for prompt in ("a dog", "a red circle") for k in range(3)]
    assert sorted(path.name for path in Path("night/vbench").iterdir()) == names
    for folder in RenderFolder(Path("night")).finished().values():
        record = json.loads(next(folder.glob("*.json")).read_text())
        clip = Path("night/vbench") / f"{record['prompt']}-{record['seed']}.mp4"
        assert clip.read_bytes() == (folder / record["output"]["file"]).read_bytes()
    assert cli("render", "-o", "night").err.endswith("give a job file, or --vbench VBench_full_info.json\n")
    assert "not both" in render("--vbench", "full.json", jobs=[{"prompt": "a"}]).err
    gif = cli("render", *options, "--set", "format=gif")
    assert gif.code == 2 and "VBench's scripts read .mp4; jobs write gif" in gif.err


def test_every_bad_line_is_told_at_once(render: Render) -> None:
    """Also where one is found by reading it and the other by looking for what it names."""
    bad = [{"prompt": "a", "images": "nowhere.png"}, {"prompt": "b", "steps": 0}, {"prompt": "c", "accel": "forra"}]
    done = render("--dry-run", "--no-time", jobs=bad)
    assert done.code == 2 and done.err.endswith("3 problems in jobs.jsonl; nothing was rendered\n")
    told = [line.split(",")[1].split(":")[0].strip() for line in done.err.splitlines()[:3]]
    assert told == ["line 1", "line 2", "line 3"]


def test_methods_that_cannot_run_are_told_before_the_first_job(render: Render) -> None:
    jobs = [
        {"prompt": "a", "steps": 4},
        {"prompt": "b", "steps": 4, "accel": "sada", "frames": 5},
        {"prompt": "c", "steps": 4, "accel": "soda", "frames": 5},
        {"prompt": "d", "steps": 4, "accel": "fora", "frames": 5},
    ]
    for flags in ((), ("--dry-run",)):
        done = render(*flags, jobs=jobs)
        assert done.code == 2 and done.err.endswith("2 problems in jobs.jsonl; nothing was rendered\n"), done.err
        assert "jobs.jsonl, line 2: sada with a start of 0.2 needs at least 6 steps, got 4" in done.err
        assert "jobs.jsonl, line 3: soda needs the calibrated table" in done.err
        assert not Path("out").exists()
    done = render("--dry-run", "--no-time", jobs=jobs)
    assert done.code == 0 and "whether all methods can run here was not checked" in done.out
    done = render("--no-check", jobs=jobs)
    assert done.code == 3 and "2 of 4 clips done" in done.out


def test_jobs_are_listed(render: Render, cli: Cli) -> None:
    assert render(jobs=[{"prompt": "a red circle", "name": "red"}]).code == 0
    text = cli("status", "out", "--jobs").out
    (job,) = RenderFolder(Path("out")).finished()
    assert any(line.split()[:3] == [job, "red", "done"] for line in text.splitlines())
    assert "prompt" not in cli("status", "out").out, "no table where there is nothing in it"
    assert "videoaccel status out --jobs lists them" in cli("cancel", "out", "nosuch").err
