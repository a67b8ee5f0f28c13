"""Quality of tools on the same weights: each family runs on a tiny pipeline and comes off it; tables from rows."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peer_cases import deepened
from benchmarks.peers_quality import Rows, counted, psnr
from benchmarks.quality_table import at_equal, equal_table, results
from benchmarks.quality_tools import Knowledge, _first_block, _taylorseer, attempts, dbcache, mixed_in, ours
from tests.adapters import image_pipes as images


def on(kind: str) -> Any:
    if kind == "videoaccel":
        return functools.partial(ours, method="fora", known=Knowledge(8), period=2)
    if kind == "FirstBlockCache":
        return functools.partial(mixed_in, config=functools.partial(_first_block, 10.0))
    if kind == "TaylorSeerCache":
        return functools.partial(mixed_in, config=functools.partial(_taylorseer, 2))
    pytest.importorskip("cache_dit")
    if kind == "DBCache":
        return functools.partial(dbcache, steps=8, threshold=10.0)
    return functools.partial(dbcache, steps=8, taylor=True, policy="fast")


@pytest.mark.parametrize("kind", ["videoaccel", "FirstBlockCache", "TaylorSeerCache", "DBCache", "step mask"])
def test_a_tool_takes_fewer_operations_and_comes_off(kind: str) -> None:
    tiny = deepened(images.dit())
    network = tiny.pipe.transformer
    with counted(network, weighing=False) as plain:
        exact = tiny(steps=8)
    put_on = on(kind)
    with counted(network, weighing=False) as seen, put_on(tiny.pipe):
        tiny(steps=8)
    assert 0 < sum(seen.flops) < 0.9 * sum(plain.flops) and len(plain.flops) == 8
    assert tiny(steps=8).equals(exact)


def test_diffusers_own_caches_cannot_be_asked_for() -> None:
    told = attempts(images.dit().pipe)
    assert len(told) == 5 and all("no attribute 'enable_cache'" in why for why in told.values())


def row(method: str, setting: str, kind: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"method": method, "setting": setting, "kind": kind, "prompt": "p", "seed": seed}
    told |= {"prior": "", "repeat": None if kind == "quality" else 0, "tool": "them"}
    if kind == "quality":
        told |= {"ssim": None, "world": {"still": [1, 2]}, "fired": method != "exact", "digest": "d", "cache_bytes": 5}
    else:
        told |= {"plan_seconds": 0.0, "peak_memory": None}
    return {**told, **more}


def test_psnr_at_equal_speed_is_read_between_a_methods_own_points() -> None:
    rows = [row("exact", "", "quality", seed, psnr="inf", flops=12.0) for seed in (0, 1)]
    for setting, flops, seconds, values in (("t=1", 8.0, 5.0, (40.0, 36.0)), ("t=2", 4.8, 4.0, (30.0, 20.0))):
        rows += [row("cache", setting, "quality", seed, psnr=value, flops=flops) for seed, value in enumerate(values)]
        rows.append(row("cache", setting, "timing", seconds=seconds, exact_seconds=10.0))
    by_flops = at_equal(results(rows), by="flops")["cache"]
    means, worst = ([one.psnr for one in some] for some in zip(*by_flops, strict=True))
    # the points are at 1.5x and 2.5x, so 2x lies halfway; the mean PSNR of clips is not that of their errors
    first, last = results(rows)[1].psnr, results(rows)[2].psnr
    assert first is not None and last is not None
    assert means == pytest.approx([first, (first + last) / 2, last, None]) and worst == [36.0, 28.0, 20.0, None]
    by_time = at_equal(results(rows), by="latency")["cache"]
    assert [one.psnr for one, _ in by_time][1:3] == pytest.approx([first, last]) and by_time[0][
        0
    ].text == "begins at 2.00x"
    line = equal_table(rows, by="flops").splitlines()[-1]
    assert line.startswith("| them | cache | ") and line.endswith("(20.0) | not reached |")


def test_rows_are_found_again(tmp_path: Path) -> None:
    key = {"kind": "quality", "method": "m", "setting": "s", "prompt": "p", "seed": 0, "repeat": None}
    Rows(tmp_path / "a.jsonl").add(**key, psnr=1.0)
    rows = Rows(tmp_path / "a.jsonl")
    assert rows.has(**key) and not rows.has(**{**key, "seed": 1}) and rows.of("quality")[0]["psnr"] == 1.0


def test_psnr_of_bytes() -> None:
    black = torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()
    assert psnr(black, black) == float("inf") and psnr(black, black + 255) == pytest.approx(0.0)
