"""Distances of the clips that a comparison kept."""

import json
from pathlib import Path

import torch

from benchmarks.distances import apart, at_speedups, nearest, rows_of
from videoaccel.comparison.log import ROWS


def test_of_several_priors_the_last_counts_and_what_failed_is_left_out(tmp_path: Path) -> None:
    row = {"kind": "quality", "method": "soda", "setting": "flops_ratio=2", "prompt": "a", "seed": 0}
    rows = [
        {"kind": "header"},
        {**row, "prior": "old", "flops": 3.0},
        {**row, "prior": "new", "flops": 2.0},
        {**row, "seed": 1, "prior": "new", "flops": 2.0},
        {**row, "kind": "timing", "prior": "new"},
        {**row, "method": "fora", "error": "it failed"},
    ]
    (tmp_path / ROWS).write_text("\n".join(map(json.dumps, rows)))
    assert {key: [r["flops"] for r in some] for key, some in rows_of(tmp_path).items()} == {
        ("soda", "flops_ratio=2"): [2.0, 2.0]
    }


def test_distances_are_read_off_between_settings() -> None:
    found = [
        {"method": "fora", "setting": f"period={k}", "fewer_flops": x, "apart": a, "frechet": 10 * a, "right": r}
        for k, x, a, r in ((2, 1.5, 0.1, 100.0), (3, 2.5, 0.3, None))
    ]
    at = at_speedups([{"method": "exact", "fewer_flops": 1.0}, *found])
    assert list(at) == ["fora"] and at["fora"]["2x"] == {"apart": 0.2, "frechet": 2.0, "right": None}
    assert at["fora"]["1.5x"]["right"] == 100.0 and at["fora"]["3x"]["apart"] is None
    assert nearest(found, "fora") is found[0] and nearest(found, "soda") is None


def test_other_clips_are_one_apart() -> None:
    exact = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert apart(exact, exact, 2) == 0.0
    assert apart(exact.roll(2, 0), exact, 2) == 1.0
