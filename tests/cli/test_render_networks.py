"""Rendering with real networks: batches, short memory, text that another worker encodes, and a report of it all."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import Cli, here
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.leases import Leases
from videoaccel.rendering.outcome import Rules
from videoaccel.rendering.renderer import LocalRenderer
from videoaccel.rendering.run import open_render, work
from videoaccel.rendering.text_ahead import FolderTexts, text_lease


@pytest.fixture
def jobs(cli: Cli, pipeline_folder: Path) -> Path:
    """Three jobs for the tiny model."""
    about = {"model": str(pipeline_folder), "frames": 1, "steps": 2, "threads": 1}
    lines = [{"prompt": "a red circle", "seed": seed, **about} for seed in range(3)]
    Path("jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Path("jobs.jsonl")


def records(out: str = "out") -> list[dict[str, Any]]:
    folders = RenderFolder(Path(out)).finished().values()
    return [json.loads((path / f"{path.name.rpartition('-')[0]}.json").read_text()) for path in folders]


def test_batches_can_be_made_again_from_any_of_their_sidecars(cli: Cli, jobs: Path) -> None:
    done = cli("render", jobs, "-o", "out", "--allow-batching", 2)
    assert done.code == 0, done.err
    assert sorted(record["job"]["batch"] for record in records()) == [1, 2, 2]
    for folder in RenderFolder(Path("out")).finished().values():
        again = cli("generate", "--from", next(folder.glob("*.json")), "-o", "again.mp4")
        assert again.code == 0 and "NOT the same" not in again.out and "the same bytes as" in again.out


def test_short_memory_is_eased_and_recorded(cli: Cli, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = VideoAutoencoder.decode_spatial_latent, []

    def short(self: Any, *given: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *given, **options)

    monkeypatch.setattr(VideoAutoencoder, "decode_spatial_latent", short)
    done = cli("render", jobs, "-o", "out", "--allow-batching", 3)
    assert done.code == 0 and "from now on batches of 1" in done.err and "from now on vae_tiling" in done.err, done.err
    for record in records():
        assert record["job"]["memory"]["steps"] == ["batches of 1", "vae_tiling"]
        assert record["settings"]["vae_tiling"] is True
    assert "out of memory on cpu during decode" in records()[0]["job"]["memory"]["now"][0]["because"]


def test_text_that_a_dead_worker_was_to_encode(jobs: Path) -> None:
    """Another waits for it as long as it may live, and then does it itself."""
    render = open_render(jobs, "out")
    render.folder.prepare()
    seen: list[str] = []

    def watch(event: str, about: Any) -> None:
        if about.get("stage") == "text" and about["done"] == 0 and "job" not in about:
            seen.extend(Leases(render.folder.leases, "x").look())

    renderer = LocalRenderer(FolderTexts(render.folder.text))
    key = renderer.key(render.plan.jobs[0].group.order)
    (render.folder.leases / f"{text_lease(key)}.1.lease").write_text('{"worker": "dead"}')
    (render.folder.workers / "dead.beat").write_text("7 1.0 ? ? ? ? ? ?")
    assert work(render, rules=Rules(stale=1.0), tell=watch).done == 3
    assert seen == [text_lease(key)] and list(render.folder.leases.path.iterdir()) == []


def test_two_workers_encode_text_once(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from videoaccel.rendering import renderer

    loaded: list[int] = []
    plain = renderer.load_text
    monkeypatch.setattr(renderer, "load_text", lambda order: loaded.append(1) or plain(order))
    render = open_render(jobs, "out")
    threads = [threading.Thread(target=work, args=(render,), kwargs={"rules": Rules(stale=60.0)}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(RenderFolder(Path("out")).finished()) == 3 and len(loaded) == 1


def test_a_report_of_a_render(cli: Cli, jobs: Path) -> None:
    pytest.importorskip("matplotlib")
    assert cli("render", jobs, "-o", "out", "--quiet").code == 0
    done = cli("report", "out", "-o", "report", "--title", "Night")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"wrote report/report.{kind}" for kind in ("html", "json", "csv")]
    data = json.loads(Path("report/report.json").read_text())
    (group,) = data["renders"][0]["groups"]
    assert group["clips"] == 3 and group["label"] == "exact: 32x32, 1 frame, 2 steps"
    assert {"prepare", "denoise", "decode", "write"} <= group["stages"].keys()
    assert cli("report", "nothing").err == "videoaccel: nothing does not exist\n" and "nothing" not in here()
