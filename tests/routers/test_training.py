"""Training routers: what a lesson is, that the model stays as it is, going on after a stop, the command."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.disks import small_disk
from tests.models.networks import tiny_stdit
from tests.routers.fixtures import router_file
from videoaccel.common.alone import BusyError, alone
from videoaccel.models.network_config import NetworkIdentity, identity_of
from videoaccel.models.router import Routers
from videoaccel.planning.router_file import RouterFile, find_routers
from videoaccel.routers.learning import warm_start
from videoaccel.routers.lesson import Student, Teacher, lesson
from videoaccel.routers.training import part_path, train_router
from videoaccel.settings.routers import RouterSettings, parse_range

SIZE = (2, 4, 4)


def settings_of(folder: Path, out: Path, **fields: Any) -> RouterSettings:
    """A training of the tiny pipeline that takes seconds."""
    small: dict[str, Any] = {
        "model": str(folder), "size": "32x32", "frames": 5, "steps": 4, "clips": 2, "states": 2, "hidden": 8,
        "iterations": 6, "save_every": 2, "device": "cpu", "prompts": ("a red circle", "a blue square"),
    }  # fmt: skip
    return RouterSettings(**{**small, "output": str(out), **fields})


def network(model: Any, x: torch.Tensor) -> Any:
    """A call of a network for a lesson, both branches of one sample."""
    y = torch.randn(2, 1, 9, 16, generator=torch.manual_seed(2))
    with torch.no_grad():
        context = model.prepare(y, fps=torch.tensor([8.0]), height=64.0, width=64.0, latent_size=SIZE)

    def call(run: Any) -> Any:
        out = model(torch.cat([x, x]), torch.tensor([600.0, 600.0]), context=context, run=run)[:, :4]
        return dict(zip(("cond", "uncond"), out.chunk(2), strict=True))

    return call


def student_of(model: Any, routers: Routers, orders: Any = None, budget: float = 0.5) -> Student:
    prices = [[1.0, 1.0, 2.0] for _ in model.sites]
    return Student(
        routers, sites=model.sites, ordered={}, orders=orders or {}, prices=prices, budget=torch.tensor([budget])
    )


def test_an_open_student_says_what_the_teacher_says() -> None:
    model = tiny_stdit().requires_grad_(False)
    call, teacher = network(model, torch.randn(1, 4, *SIZE)), Teacher(list(model.sites))
    marks = lesson(call, student_of(model, router_file(model).routers), teacher)
    assert marks.velocity < 1e-9 and marks.hidden < 1e-9 and marks.share == 1
    assert marks.missed.item() == pytest.approx(0.25)
    assert teacher.hidden.shape == (2, 2, 4, 48)


def test_closed_gates_and_narrow_mlps_count_and_err() -> None:
    model = tiny_stdit().requires_grad_(False)
    file = router_file(model)
    with torch.no_grad():
        file.routers.bias[0, 1] = -1.0  # the first block's cross-attention: 1 of 16
        file.routers.bias[1, 4] = 9.0  # half an MLP: 1 of 16
    student = student_of(model, file.routers, file.orders)
    marks = lesson(network(model, torch.randn(1, 4, *SIZE)), student, Teacher(list(model.sites)))
    assert marks.share.item() == pytest.approx(14 / 16) and 0 < marks.velocity.item() < 2
    (marks.velocity + marks.missed).backward()
    grads = {name: value.grad for name, value in file.routers.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert (grads["bias"][0, 1] != 0) and (grads["head"][0] != 0).any(), "a closed gate can open again"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_prior_orders_the_gates_and_closes_none() -> None:
    sites = tiny_stdit().sites
    modules = [site for within in sites.values() for site in within]
    errors = torch.rand(5, len(modules), 3, generator=torch.manual_seed(0))
    errors[:, 4, 0], errors[:, 7, 0] = -1.0, 9.0
    routers = Routers(len(sites), 8)
    warm_start(routers, sites, errors)
    gates = routers.bias[:, :3]
    assert gates.min() > 0 and gates[4 // 3, 4 % 3] == gates.min() and gates[7 // 3, 7 % 3] == gates.max()


def test_what_is_there_is_looked_at_before_the_text(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoaccel.routers.training.encode_texts", lambda order: pytest.fail("work began"))
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"notes\.txt is no file of routers"):
        train_router(settings_of(pipeline_folder, tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "precious"
    for name in ("a.part", "b.jsonl"):
        (tmp_path / name).mkdir()
        with pytest.raises(IsADirectoryError, match=f"{name}: it is a folder"):
            train_router(settings_of(pipeline_folder, tmp_path / f"{name[0]}.safetensors"))
    torch.save({"about": {"settings": "others", "model": ""}}, part_path(tmp_path / "c.safetensors"))
    with pytest.raises(FileExistsError, match="begun with other settings"):
        train_router(settings_of(pipeline_folder, tmp_path / "c.safetensors"))
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(OSError, match="is not a folder"):
        train_router(RouterSettings(model=str(pipeline_folder), steps=4))


def test_a_full_disk_is_said_and_leaves_no_half_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from videoaccel.routers import training

    small_disk(monkeypatch)
    weights = torch.nn.Linear(1, 1)
    at_work = SimpleNamespace(
        settings=RouterSettings(steps=4), routers=weights, optimizer=torch.optim.Adam(weights.parameters()), iteration=1
    )
    with pytest.raises(OSError, match=r"a\.part: the disk of .* is full"):
        training._store(cast(Any, at_work), tmp_path / "a.part", NetworkIdentity("model"))
    assert list(tmp_path.iterdir()) == []


def test_training_saves_goes_on_and_finishes(pipeline_folder: Path, tmp_path: Path) -> None:
    whole = train_router(settings_of(pipeline_folder, tmp_path / "whole.safetensors"))
    out = tmp_path / "parts.safetensors"
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train_router(settings_of(pipeline_folder, out), listener=_stop_at(5))
    assert part_path(out).exists() and not out.exists()
    with pytest.raises(FileExistsError, match="begun with other settings"):
        train_router(settings_of(pipeline_folder, out, rate=0.5))
    with alone(out), pytest.raises(BusyError, match=r"another process is at work on .*parts"):
        train_router(settings_of(pipeline_folder, out))
    parts = train_router(settings_of(pipeline_folder, out), note=told.append)
    assert told == ["4 of 6 iterations were done before"] and not part_path(out).exists()
    for name, value in parts.routers.state_dict().items():
        assert torch.equal(value, whole.routers.state_dict()[name]), "as if it had never stopped"
    rows = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"budget", "loss", "velocity", "hidden", "share", "missed"} < rows[0].keys()
    assert len(whole.info["checked"]) == 3 and whole.budget == (0.3, 1.0)
    assert set(whole.orders) == set(whole.blocks) and whole.info["iterations"] == 6
    _generates(pipeline_folder, out, whole)


def _generates(folder: Path, out: Path, file: RouterFile) -> None:
    """The pipeline takes the routers that were trained for it."""
    from videoaccel.generation.pipeline import VideoPipeline

    pipe = VideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert file.network == identity_of(pipe.transformer)
    pipe.accelerate("elastic", router=str(out), flops_ratio=1.1)
    assert pipe("a red circle", num_inference_steps=4, output_type="latent").frames.isfinite().all()


def _stop_at(iteration: int) -> Any:
    def listener(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == iteration:
            raise KeyboardInterrupt

    return listener


def test_a_budget_is_learned() -> None:
    """On one state, the share comes nearer to the budget: the routers close something."""
    model = tiny_stdit().requires_grad_(False)
    torch.manual_seed(0)
    routers = Routers(len(model.sites), 48, hidden=8)
    optimizer = torch.optim.AdamW(routers.parameters(), lr=0.02)
    call = network(model, torch.randn(1, 4, *SIZE, generator=torch.manual_seed(5)))
    missed = []
    for _ in range(40):
        marks = lesson(call, student_of(model, routers, budget=0.6), Teacher(list(model.sites)))
        optimizer.zero_grad()
        (0.1 * marks.velocity + 10 * marks.missed).backward()
        optimizer.step()
        missed.append(float(marks.missed.detach()))
    assert missed[0] == pytest.approx(0.16) and min(missed[-5:]) < 0.02


def test_a_file_keeps_what_it_is_for(tmp_path: Path) -> None:
    model = tiny_stdit()
    file = router_file(model, spread=0.5)
    file.save(tmp_path / "r.safetensors")
    again = RouterFile.load(tmp_path / "r.safetensors")
    assert again.blocks == tuple(map(str, model.sites)) and again.network == identity_of(model)
    torch.testing.assert_close(again.routers.trunk, file.routers.trunk, atol=1e-3, rtol=1e-3)
    assert torch.equal(again.orders["time.1.block"].long(), file.orders["time.1.block"])
    with pytest.raises(ValueError, match="blocks, the network 2"):
        again.check(file.network, blocks=["a", "b"])
    (tmp_path / "x.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="holds no routers"):
        RouterFile.load(tmp_path / "x.safetensors")


def test_settings() -> None:
    assert RouterSettings(budget="0.4:0.9").budget == (0.4, 0.9)  # type: ignore[arg-type]
    for wrong in ("0.5", "1:0.3", "0:1"):
        with pytest.raises(ValueError, match=r"range of shares|two shares"):
            RouterSettings(budget=wrong)  # type: ignore[arg-type]
    assert parse_range((0.1, 0.2)) == (0.1, 0.2)


def test_the_command_knows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    from videoaccel.cli.app import run

    assert run(["train-router", "--budget", "2:3"]) == 2
    assert "budget" in capsys.readouterr().err
    assert run(["train-router", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("--budget", "--iterations", "--output", "--model", "--warm-start"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_on_the_shelf_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shelf = tmp_path / "videoaccel" / "routers"
    shelf.mkdir(parents=True)
    os.mkfifo(shelf / "a.safetensors")
    with pytest.warns(UserWarning, match=r"routers are passed over: .*a\.safetensors.* is no plain file"):
        assert find_routers(NetworkIdentity("none")) is None
