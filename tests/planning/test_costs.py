"""Costs: operations counted, times measured and kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.networks import tiny_stdit
from tests.tiny_run import SIZE, tiny_run
from videoaccel.generation import prepared as denoising_module
from videoaccel.models.seam import BODY, Site, direct
from videoaccel.models.stdit import STDiT3
from videoaccel.planning.costs_cache import CostsCache, machine, measured
from videoaccel.session import costs as costs_module
from videoaccel.session.actions import COMPUTE, REUSE, Compute, Partial, Span
from videoaccel.session.costs import Costs, count_flops, flops_share, interleaved, measure_time


@pytest.fixture(scope="module")
def open_sora() -> Costs:
    """Open-Sora 1.2 at 480p, 51 frames, with guidance; on the meta device, so without weights or work."""
    with torch.device("meta"):
        model = STDiT3(depth=28, hidden_size=1152, num_heads=16).to(torch.bfloat16)
    size = (15, 60, 107)
    y = torch.zeros(2, 1, 300, 4096, dtype=torch.bfloat16, device="meta")
    fps = torch.zeros(1, device="meta")
    context = model.prepare(y, fps=fps, height=480.0, width=854.0, latent_size=size)
    x, t = torch.zeros(2, 4, *size, device="meta"), torch.zeros(2, device="meta")
    return count_flops(lambda run: model(x, t, context=context, run=run), blocks=model.sites)


def test_a_generation_of_open_sora(open_sora: Costs) -> None:
    assert 3.35e15 < 30 * open_sora.dense < 3.46e15


def test_shares_of_open_sora(open_sora: Costs) -> None:
    def share(*kinds: tuple[str, str]) -> float:
        return sum(28 * open_sora.modules[kind][1.0] for kind in kinds) / open_sora.dense

    assert share(("space", "mlp"), ("time", "mlp")) == pytest.approx(0.50, abs=0.01)
    assert share(("space", "attn")) == pytest.approx(0.21, abs=0.01)
    assert share(("time", "attn")) == pytest.approx(0.126, abs=0.005)
    assert open_sora.rest < 0.01 * open_sora.dense


def test_attention_counts_on_the_cpu() -> None:
    """torch's own counter leaves the CPU's attention out."""
    run = tiny_run(model=tiny_stdit())
    counted = run.costs("flops")
    meta = FlopCounterMode(display=False)
    with torch.inference_mode(), meta:
        run.once(direct)
    tokens = 3 * 16
    space = 4 * 2 * 3 * 4 * 16 * 16 * 12  # q k^T and weights times v, 2 rows, 3 frames, 4 heads of 12
    time = 4 * 2 * 16 * 4 * 3 * 3 * 12
    cross = 4 * 2 * 4 * tokens * 9 * 12
    assert counted.dense == pytest.approx(meta.get_total_flops() + 2 * (space + time + 2 * cross), rel=1e-9)


def test_partial_computation_costs_its_share() -> None:
    costs = tiny_run().costs("flops")
    mlp, space = Site("mlp", "time"), Site("attn", "space")
    assert costs.module(mlp, Partial(0.5)) == costs.module(mlp, COMPUTE) / 2 and costs.module(mlp, REUSE) == 0
    assert costs.module(mlp, Compute(0.25)) == costs.module(mlp, COMPUTE) / 4
    # Two columns to a group: three quarters round up to all of them. Between measured shares costs are interpolated.
    assert costs.module(mlp, Partial(0.625)) == pytest.approx(0.75 * costs.module(mlp, COMPUTE))
    kept, all_keys = (costs.module(space, Partial(0.5, keys=keys)) for keys in ("kept", "all"))  # type: ignore[arg-type]
    assert kept < all_keys < costs.module(space, COMPUTE)


def test_a_step_costs_what_runs_in_it() -> None:
    costs = tiny_run().costs("flops")
    blocks = list(costs.blocks)
    everything = Span(0, len(blocks))
    assert costs.step({everything: REUSE}, 1.0) == costs.rest and costs.step({BODY: REUSE}, 1.0) == 0
    assert costs.step({}, 0.5) == costs.dense / 2 and costs.step({}, 0.0) == 0
    one = sum(costs.module(site, COMPUTE) for site in costs.blocks[blocks[0]])
    assert costs.step({blocks[0]: REUSE}, 1.0) == pytest.approx(costs.dense - one)
    assert costs.total([{}, {everything: REUSE}]) == costs.dense + costs.rest
    assert costs.step({BODY: REUSE}, 0.25) == costs.dense / 4, "a call on a smaller latent, which is never as large"
    assert costs.step({}, 1.25) == 1.25 * costs.dense
    assert costs.step({everything: REUSE}, 1.25) == costs.rest + costs.dense / 4


def test_times_are_scaled_to_a_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules timed alone never add up to a step; what they say is how it divides."""
    run = tiny_run()

    def fake(jobs: Any, **options: Any) -> dict[Any, float]:
        return {name: {"dense": 100.0, "rest": 10.0}.get(name, 1.0 if name[1] == COMPUTE else 0.25) for name in jobs}

    monkeypatch.setattr(costs_module, "interleaved", fake)
    with torch.inference_mode():
        costs = measure_time(run.once, blocks=run.model.sites)
    assert costs.dense == pytest.approx(100.0) and costs.rest == 10.0
    assert costs.module(Site("mlp", "time"), COMPUTE) == pytest.approx(90 / 12)
    assert costs.module(Site("mlp", "time"), REUSE) == pytest.approx(0.25 * 90 / 12)


def test_rounds_take_turns_and_end_with_the_budget() -> None:
    order: list[str] = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, budget=60)
    assert order == ["a", "b"] * 4, "a warm-up round, then three"
    order.clear()
    interleaved({"a": lambda: order.append("a")}, repeats=50, budget=0)
    assert len(order) == 3, "two rounds are always run"


# -- kept on disk


def test_costs_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times: list[int] = []

    def fake(call: Any, **options: Any) -> Costs:
        times.append(1)
        return measure_time(call, **options, repeats=1)

    monkeypatch.setattr(denoising_module, "measure_time", fake)
    first, second = tiny_run().costs("ms"), tiny_run().costs("ms")
    assert len(times) == 1 and first == second and first.unit == "ms"
    assert second.blocks == tiny_run().model.sites
    tiny_run(batch=2).costs("ms")
    tiny_run(model=tiny_stdit(depth=1)).costs("ms")
    assert len(times) == 3, "another batch or network is another measurement"
    tiny_run().costs("flops")
    assert len(list((tmp_path / "videoaccel" / "costs").iterdir())) == 4, "what is counted is kept beside the times"


def test_what_costs_depend_on() -> None:
    run = tiny_run()
    key = run.costs_key()
    assert {"device", "threads", "torch", "videoaccel", "config", "dtype", "latent", "rows", "text"} <= key.keys()
    assert key == tiny_run(seed=9, steps=3).costs_key(), "neither seed nor steps"
    longer = replace(run, context=run.context._replace(text_mask=torch.ones(2, 1, 1, 9, dtype=torch.bool)))  # type: ignore[attr-defined]
    assert key != longer.costs_key() and key["latent"] == [1, 4, *SIZE]
    assert machine(torch.device("cpu"))["device"]


def test_operations_are_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = tiny_run()
    assert run.counted() is None and run.job().counted is not None
    flops = run.costs("flops")
    monkeypatch.setattr("videoaccel.generation.prepared.count_flops", lambda *_, **__: pytest.fail("counted again"))
    assert tiny_run(seed=9).counted() == flops == tiny_run(steps=3).costs("flops") and flops.unit == "flops"
    half = [{}, {site: REUSE for site in run.model.sites}]
    assert 0.5 < flops_share(flops, half, [1.0, 1.0], asked=2) < 0.55


def test_damaged_files_are_measured_again(tmp_path: Path) -> None:
    cache, costs = CostsCache(tmp_path), tiny_run().costs("flops")
    cache.put({"a": 1}, costs)
    (path,) = tmp_path.iterdir()
    again = cache.get({"a": 1}, blocks=costs.blocks)
    assert again == Costs("flops", costs.modules, costs.kept, costs.rest, costs.blocks)
    assert cache.get({"a": 2}, blocks=costs.blocks) is None
    for text in ("", "[]", "{}", json.dumps({"format": 1, "key": {"a": 1}, "modules": 3}), path.read_text()[:-20]):
        path.write_text(text)
        assert cache.get({"a": 1}, blocks=costs.blocks) is None
    assert [entry.key for entry in cache.entries()] == [None] and cache.clear() == 1 and cache.entries() == []


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "videoaccel").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    costs = tiny_run().costs("flops")
    with pytest.warns(UserWarning, match="measured costs are not kept for next time"):
        assert measured({"a": 1}, lambda: costs, blocks=costs.blocks) is costs
